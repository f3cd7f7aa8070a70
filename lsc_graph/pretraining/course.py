"""How a fit fares: its largest errors, the best weights so far, and whether going on leads anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lsc_graph.pretraining.reading import Edge

_SPEED_UP, _SLOW_DOWN = 1.2, 0.6
# Where the largest error is so many times the one before, steps are trusted less, down to a share.
_WORSE, _LEAST_TRUST = 1.3, 0.25
_PATIENCE = 12
# Where one of so few last iterations came closer than any before, no radius holds a fit up: one that does not
# move may have been pushed back by what moved the rest.
_FEW = 4
# So many largest errors are compared with as many before them: still less by this factor is progress.
_WINDOW, _PROGRESS = 6, 0.9
# Nearer than so many tolerances a fit is near its targets; more than so many it is far off, not by noise.
_NEAR, _FAR = 10, 5
# Errors so many times as large as the best ones, and far off beyond them, have gone astray.
_ASTRAY = 10


class Course:
    """The largest errors of a fit's iterations.

    Args:
        tolerance: of a radius.
        values: of the weights, at first.
    """

    def __init__(self, tolerance: float, values: list[Tensor]) -> None:
        self._tolerance = tolerance
        self.best, self.since_best = math.inf, 0
        self.best_values = values
        self.best_errors: dict[Edge, float] = {}
        self.recent: list[float] = []
        self.trust = 1.0

    def state(self) -> dict[str, Any]:
        """What is needed to go on from here."""
        return vars(self).copy()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        vars(self).update(state)

    def note(self, largest: float, noise: float, values: list[Tensor], errors: Mapping[Edge, float]) -> None:
        """Take in an iteration's largest error, which may be off by `noise`, and its weights."""
        before = self.recent[-1] if self.recent else math.inf
        self.recent = [*self.recent, largest][-2 * _WINDOW :]
        factor = _SLOW_DOWN if largest - noise > _WORSE * before else _SPEED_UP
        self.trust = min(1.0, max(_LEAST_TRUST, factor * self.trust))
        if largest < self.best - 0.1 * self._tolerance:
            self.best, self.since_best, self.best_values = largest, 0, values
            self.best_errors = dict(errors)
        else:
            self.since_best += 1

    def slow_down(self) -> None:
        """Trust steps less: one led where derivatives say nothing."""
        self.trust = max(_LEAST_TRUST, _SLOW_DOWN * self.trust)

    def begin_again(self, best: float = math.inf) -> None:
        """Other weights, whose largest error is known or not: earlier errors say nothing about them."""
        self.best, self.since_best, self.recent = best, 0, []

    @property
    def is_near(self) -> bool:
        """Whether all radii were near their targets at best, and at last."""
        return max([self.best, *self.recent[-1:]]) < _NEAR * self._tolerance

    def is_far(self, error: float) -> bool:
        """Whether an error is more than noise."""
        return abs(error) > _FAR * self._tolerance

    def is_over(self) -> bool:
        """Whether many iterations brought nothing."""
        return self.since_best >= self._patience() and not self._still_falls()

    def has_gone_astray(self) -> bool:
        """Whether the last errors are all far larger than the smallest one."""
        limit = max(_ASTRAY * self.best, self.best + _FAR * self._tolerance)
        last = self.recent[-_WINDOW:]
        return len(last) == _WINDOW and self.since_best >= _WINDOW and min(last) > limit

    def is_held_up(self) -> bool:
        """Whether no iteration of the last few came closer."""
        return self.since_best >= _FEW

    def why_over(self) -> str:
        """Why nothing is to be gained by going on."""
        if self.has_gone_astray():
            return f"the last {_WINDOW} iterations led away from the best weights"
        return f"no iteration of the last {self.since_best} came closer"

    def _patience(self) -> int:
        """Within tolerance only the noise of estimates is left to be waited for."""
        is_near = bool(self.recent) and max(self.recent[-_WINDOW:]) <= 1.5 * self._tolerance
        return 3 * _PATIENCE if is_near else _PATIENCE

    def _still_falls(self) -> bool:
        """Whether the largest errors fall on average, even if none is a new best."""
        half = len(self.recent) // 2
        return half == _WINDOW and sum(self.recent[half:]) < _PROGRESS * sum(self.recent[:half])
