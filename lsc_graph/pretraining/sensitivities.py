"""How log radii answer to the unknowns, as few points at a time show it.

A step of least norm is made of the unknowns that seem to move most. Of noisy sensitivities these are mostly
noise, and such a step does something else than it is meant to. Near the targets, where the weights hardly
move any more, single readings differ by their noise: what of a step goes along it counts as an error of the
same size, so that the expected squares of all errors are the least.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lsc_graph.pretraining.gauss_newton import least_norm_step, units_of

# Where averages are taken, the newest reading has this share at least.
_LEAST_SHARE = 0.15
_DAMPING = 1e-3
# So many of the last readings tell how single ones scatter.
_MOST = 8


class Sensitivities:
    """d log radius / d unknown.

    Attributes:
        mean: [R, K], of the readings that are averaged.
        count: how many those are.
        misses: by how much each of the last readings missed the mean before it, [R, K], in terms of a single
            reading's noise.
    """

    def __init__(self) -> None:
        self.mean = torch.zeros(0)
        self.count = 0
        self.misses: list[Tensor] = []

    def take(self, found: Tensor, *, is_near: bool) -> None:
        """Take in a reading [R, K] of the same edges as before if `is_near`, at weights that hardly moved."""
        is_same = is_near and found.shape == self.mean.shape
        if not is_same:
            self.mean, self.count, self.misses = found, 1, []
            return
        miss = found - self.mean
        self.misses = [*self.misses, miss / math.sqrt(1 + self._variance)][-_MOST:]
        self.count += 1
        self.mean = self.mean + max(1 / self.count, _LEAST_SHARE) * miss

    @property
    def _variance(self) -> float:
        """Of the mean, over that of a single reading; an average that forgets has that of about 2 / share."""
        return max(1 / self.count, _LEAST_SHARE / (2 - _LEAST_SHARE))

    def _noise(self) -> Tensor:
        """Rows [Q, K] along which a step is as far off, in squares, as the noise of the mean lets expect."""
        if not self.misses:
            return self.mean[:0]
        return torch.cat(self.misses) * math.sqrt(self._variance / len(self.misses))

    def step(self, errors: Tensor) -> tuple[Tensor, Tensor]:
        """The change of the unknowns [K] against errors [R], and the units in which it is small [K]."""
        units = units_of(self.mean)
        noise = self._noise()
        rows = torch.cat([self.mean, noise]) * units
        residuals = torch.cat([errors, errors.new_zeros(len(noise))])
        return units * least_norm_step(rows, residuals, _DAMPING), units

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return vars(self).copy()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        vars(self).update(state)
