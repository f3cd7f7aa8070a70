"""How the largest error of a fit has gone from iteration to iteration, and what that says of going on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lsc_graph.pretraining.readings import Edge

# Where the largest error is so many times the one before, steps are trusted less, down to a share.
_WORSE, _LEAST_TRUST = 1.3, 0.25
_MORE, _LESS = 1.2, 0.6
_PATIENCE = 12
# So many largest errors are compared with as many before them: still less by this factor is progress.
WINDOW, _PROGRESS = 6, 0.9
# Nearer than so many tolerances weights wander around their targets.
_NEAR = 10
# Estimates so many times as far off as the best ones, and so many tolerances more, have gone astray.
_ASTRAY, FAR = 10, 5


@dataclass
class Course:
    """The largest errors, and the weights with the least of them.

    Attributes:
        tolerance: how far a radius may be from its target.
        best_values: weights with the least largest error.
        best: that error.
        best_errors: the errors of all edges there.
        since_best: iterations after it.
        recent: the last largest errors.
        trust: the share of a step that is taken.
    """

    tolerance: float
    best_values: list[Tensor]
    best: float = math.inf
    best_errors: dict[Edge, float] = field(default_factory=dict)
    since_best: int = 0
    recent: list[float] = field(default_factory=list)
    trust: float = 1.0

    def note(self, largest: float, values: list[Tensor], errors: Mapping[Edge, float]) -> None:
        """One more iteration: its largest error, its weights, and the errors of the edges."""
        before = self.recent[-1] if self.recent else math.inf
        self.recent = [*self.recent, largest][-2 * WINDOW :]
        factor = _LESS if largest > _WORSE * before else _MORE
        self.trust = min(1.0, max(_LEAST_TRUST, factor * self.trust))
        if largest < self.best - 0.1 * self.tolerance:
            self.best, self.since_best, self.best_values = largest, 0, values
            self.best_errors = dict(errors)
        else:
            self.since_best += 1

    def begin_again(self, values: list[Tensor], largest: float = math.inf) -> None:
        """Go on from other weights."""
        self.recent, self.best, self.since_best, self.best_values = [], largest, 0, values

    @property
    def is_near(self) -> bool:
        """Whether the targets have once been near."""
        return self.best < _NEAR * self.tolerance

    def has_gone_astray(self) -> bool:
        """Whether the last errors are all far larger than the smallest one."""
        limit = max(_ASTRAY * self.best, self.best + FAR * self.tolerance)
        last = self.recent[-WINDOW:]
        return len(last) == WINDOW and self.since_best >= WINDOW and min(last) > limit

    def leads_nowhere(self) -> bool:
        """Whether many iterations brought nothing, nor do the errors fall on average."""
        # Within tolerance only the noise of estimates is left to be waited for.
        is_within = bool(self.recent) and max(self.recent[-WINDOW:]) <= 1.5 * self.tolerance
        patience = 3 * _PATIENCE if is_within else _PATIENCE
        return self.since_best >= patience and not self._still_falls()

    def _still_falls(self) -> bool:
        half = len(self.recent) // 2
        return half == WINDOW and sum(self.recent[half:]) < _PROGRESS * sum(self.recent[:half])

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return vars(self).copy()
