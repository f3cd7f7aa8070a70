"""The last step of a fit: taken back for a shorter one where it let a radius collapse.

A radius that has gone to almost nothing, as where the units that carried it are all off, has derivatives that
say nothing of the way back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lsc_graph.pretraining.gauss_newton import Tracker
from lsc_graph.pretraining.problem import Problem
from lsc_graph.pretraining.reading import Edge, Reading
from lsc_graph.pretraining.trail import Trail

# Below this share of what a step was to lead to, and of its target, a radius has collapsed.
_COLLAPSED = 0.1
# A step is taken by this share, and so often made shorter still.
_SHARE, _MOST = 0.25, 2


@dataclass
class LastStep:
    """From where a step went how far, and what it was to change.

    Args:
        values: of the weights before it.
        step: of the unknowns.
        tracker: the estimates before it.
        changes: of log radii, by edge.
        count: how often it was shortened.
    """

    values: list[Tensor]
    step: Tensor
    tracker: dict[str, Any]
    changes: dict[Edge, float]
    count: int = 0

    def has_failed(
        self, problem: Problem, readings: Sequence[Reading], trail: Trail, points: tuple[int, int, int]
    ) -> bool:
        """Whether a radius has collapsed that these very points did not find as small before."""
        if self.count == _MOST:
            return False
        suspects = {
            reading.edge: math.log(max(reading.mean, 1e-12))
            for reading in readings
            if reading.edge in self.changes and reading.mean < _COLLAPSED * problem.targets[reading.edge]
        }
        suspects = {edge: log for edge, log in suspects.items() if self._is_below(edge, log, trail.logs[-1])}
        if not suspects:
            return False
        before = problem.read(self.values, *points, with_derivative=False, only=list(suspects))
        logs = {reading.edge: math.log(max(reading.mean, 1e-12)) for reading in before}
        return any(self._is_below(edge, log, logs) for edge, log in suspects.items())

    def _is_below(self, edge: Edge, log: float, before: Mapping[Edge, float]) -> bool:
        return edge in before and log < before[edge] + self.changes[edge] + math.log(_COLLAPSED)

    def shortened(self) -> LastStep:
        """A part of the step."""
        changes = {edge: _SHARE * change for edge, change in self.changes.items()}
        return LastStep(self.values, _SHARE * self.step, self.tracker, changes, self.count + 1)

    def tracker_before(self) -> Tracker:
        """The estimates as they were."""
        return Tracker(**self.tracker)
