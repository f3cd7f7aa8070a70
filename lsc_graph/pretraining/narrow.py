"""Few rows of local Jacobians that hold all their eigenvalues, beside rows that show whether they do.

Where blocks share a range of few dimensions, or couple no two units, some combinations of their rows say
everything. Random combinations must then be those that the others predict: no matrix is taken on trust.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from lsc_graph.layers.cells import Layer
from lsc_graph.pretraining.eigenpairs import radii, unit_radii
from lsc_graph.pretraining.reduction import num_units

_NUM_CHECKS = 2
# Squares of what the checks may be off by: rounding errors of float32.
_ROUNDING = 1e-8
# A basis is worth it from so many rows for each of its vectors on.
_LEAST_SAVING = 3


class Narrow(ABC):
    """What to look at of the matrices [P, n, n] of one edge."""

    looks: Tensor
    """Combinations of rows [R, n], the checks last."""

    def radii(self, rows: Tensor) -> Tensor | None:
        """Spectral radii [P] from `looks @ M` [P, R, n]; None where a check shows another kind of matrix."""
        kept, seen = rows[:, :-_NUM_CHECKS].double(), rows[:, -_NUM_CHECKS:].double()
        rest = (seen - self._predicted(kept)).square().sum((1, 2))
        sizes = seen.square().sum((1, 2))
        if bool((rest > _ROUNDING * (sizes + sizes.mean() / 100)).any()):
            return None
        return self._radii(kept)

    @abstractmethod
    def _predicted(self, kept: Tensor) -> Tensor:
        """The checks [P, 2, n] by the other rows."""

    @abstractmethod
    def _radii(self, kept: Tensor) -> Tensor:
        """Radii from the rows that are no checks."""


class NarrowRange(Narrow):
    """M = Q Q^T M: the rows Q^T M.

    Args:
        basis: Q [n, r], orthonormal.
    """

    def __init__(self, basis: Tensor) -> None:
        self.basis = basis
        checks = torch.randn(_NUM_CHECKS, len(basis), dtype=torch.float64, generator=_generator()).to(basis)
        self._weights = checks @ basis
        self.looks = torch.cat([basis.T, checks])

    def _predicted(self, kept: Tensor) -> Tensor:
        return self._weights @ kept

    def _radii(self, kept: Tensor) -> Tensor:
        return radii(kept @ self.basis)


class NarrowUnits(Narrow):
    """Each of N units acts on its own k states alone: the sums over all units, of which each column has one.

    Args:
        layer: whose states they are.
    """

    def __init__(self, layer: Layer) -> None:
        self._shape = len(layer.states), num_units(layer)
        size = self._shape[0] * self._shape[1]
        sums = torch.eye(self._shape[0], dtype=torch.float64).repeat_interleave(self._shape[1], dim=1)
        self._checks = torch.randn(_NUM_CHECKS, size, dtype=torch.float64, generator=_generator())
        self.looks = torch.cat([sums, self._checks])

    def _by_unit(self, kept: Tensor) -> Tensor:
        """[P, k, k, N]: new state, old state, unit."""
        return kept.reshape(len(kept), self._shape[0], *self._shape)

    def _predicted(self, kept: Tensor) -> Tensor:
        checks = self._checks.reshape(_NUM_CHECKS, *self._shape).to(kept.device)
        return torch.einsum("ciu,piju->pcju", checks, self._by_unit(kept)).flatten(2)

    def _radii(self, kept: Tensor) -> Tensor:
        return unit_radii(self._by_unit(kept).movedim(-1, 1)).value


def saves_much(basis: Tensor) -> bool:
    """Whether a basis has few vectors for their length."""
    return _LEAST_SAVING * basis.shape[1] <= basis.shape[0]


@dataclass
class Looks:
    """Cotangents of one layer's new state for several edges at once.

    Edges of the same kind share their rows.
    """

    narrows: list[Narrow]

    @property
    def cotangents(self) -> Tensor:
        """[R, n] float32."""
        return torch.cat([narrow.looks for narrow in self.narrows]).float()

    def of(self, narrow: Narrow, rows: Tensor) -> Tensor:
        """The rows [..., R', n] that belong to one of them."""
        start = 0
        for other in self.narrows:
            stop = start + len(other.looks)
            if other is narrow:
                return rows[..., start:stop, :]
            start = stop
        raise KeyError(narrow)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
