"""What a fit knows: its weights, and running estimates of how far each radius is from its target."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lsc_graph.pretraining.candidates import Average, Candidates
from lsc_graph.pretraining.course import Course
from lsc_graph.pretraining.fit import Progress, why_unmoved
from lsc_graph.pretraining.gauss_newton import Tracker
from lsc_graph.pretraining.last_step import LastStep
from lsc_graph.pretraining.problem import Problem
from lsc_graph.pretraining.reading import Edge, Reading
from lsc_graph.pretraining.sensitivities import Sensitivities
from lsc_graph.pretraining.slopes import are_moved, relative_slopes
from lsc_graph.pretraining.trail import Trail
from lsc_graph.pretraining.unknowns import Unknowns

_LEAST_VARIANCE = 1e-6
# Estimates must be a little nearer than the tolerance: fresh points will disagree with them.
SETTLED = 0.9
# Nearer than this share of the tolerance nothing is gained by one more step.
_CENTRED = 0.5
# Where the noise of a mean is more than this share of the tolerance, more of its points are looked at.
_QUITE = 0.75
# Where all radii in time are below this one, derivatives are followed back in time.
_CONTRACTING = 0.9
# Where standard errors are so small a part of means, fewer points serve for derivatives.
_QUIET = 0.05
_KEPT = (
    "values", "start", "earlier", "given_up", "edges", "unmoved", "efforts", "ways", "iterations",
    "doublings", "_pace", "_signs", "_means", "_rounds",
    "any_held", "measures", "_std_errors", "tried", "bare", "jumps",
)  # fmt: skip
State = dict[str, Any]


class FitState:
    """The state of one fit, and what follows from it alone.

    Args:
        problem: what is fitted.
        values: of the weights, at first.
        given_up: the edges that are left out, and why.
        candidates: the best weights of all fits of this problem.
        earlier: iterations and seconds of earlier starts.
    """

    def __init__(
        self,
        problem: Problem,
        values: list[Tensor],
        given_up: Mapping[Edge, str],
        candidates: Candidates,
        earlier: tuple[int, float] = (0, 0.0),
    ) -> None:
        self.problem, self.values, self.given_up = problem, values, dict(given_up)
        self.candidates = candidates
        self.start = values
        self.earlier = earlier
        self.tracker = Tracker()
        self.history: list[Progress] = []
        self.edges: list[Edge] = []
        self.unmoved: dict[Edge, str] = {}
        self.once_moved: set[Edge] = set()
        self.efforts: dict[Edge, float] = {}
        self.ways: dict[Edge, float] = {}
        self.sensitivities = Sensitivities()
        self.unknowns: Unknowns | None = None
        self.iterations = self.jumps = 0
        self.any_held = self.measures = False
        self.doublings: dict[Edge, int] = {}
        self.tried: dict[Edge, int] = {}
        self.bare: dict[Edge, float] = {}
        self.trail = Trail()
        self.course = Course(problem.tolerance, values)
        self._pace = self._signs = torch.zeros(0, dtype=torch.float64)
        self._std_errors: dict[Edge, float] = {}
        self._rounds = 0
        self._average = Average()
        self._means: dict[Edge, float] = {}
        self._confirmed: Mapping[Edge, Reading] = {}
        self._last: LastStep | None = None
        self._start = time.perf_counter()

    def state(self) -> State:
        """What is needed to go on from here after an interruption, as if there had been none."""
        found: State = {name: getattr(self, name) for name in _KEPT}
        found["tracker"] = vars(self.tracker).copy()
        found["trail"] = self.trail.state()
        found["course"] = self.course.state()
        found["sensitivities"] = self.sensitivities.state()
        found["last"] = None if self._last is None else vars(self._last).copy()
        found["candidates"] = self.candidates.state()
        found["average"] = (self._average.count, self._average.values)
        found["once_moved"] = sorted(self.once_moved)
        found["seconds"] = time.perf_counter() - self._start
        return found

    def restore(self, state: State) -> None:
        """Go on from a state."""
        for name in _KEPT:
            setattr(self, name, state[name])
        self.tracker = Tracker(**state["tracker"])
        self.once_moved = set(state["once_moved"])
        self.trail = Trail(**state["trail"])
        self.course.restore(state["course"])
        self.sensitivities.restore(state["sensitivities"])
        self._last = None if state["last"] is None else LastStep(**state["last"])
        self.candidates.restore(state["candidates"])
        self._average.count, self._average.values = state["average"]
        self._start = time.perf_counter() - state["seconds"]

    def _is_quiet(self) -> bool:
        """Whether all means were known to a small part of themselves, from as few points as at first."""
        errors = self._std_errors
        return self.is_predictable() and all(errors[edge] <= _QUIET * self._means[edge] for edge in errors)

    def is_predictable(self) -> bool:
        """Whether states of long ago are forgotten, so that derivatives through time tell what steps do."""
        own = [mean for (source, target), mean in self._means.items() if source == target]
        return bool(self._means) and max(own, default=0.0) < _CONTRACTING

    def _are_derivatives_whole(self) -> bool:
        """Whether derivatives leave nothing out: no way by earlier steps, no threshold in it."""
        return not (self.problem.reader.is_recurrent or self.problem.has_surrogate)

    def _update(self, readings: Sequence[Reading], slopes: Tensor) -> None:
        is_moved, relative = are_moved(readings, slopes), relative_slopes(readings, slopes)
        self.unmoved = {
            r.edge: why_unmoved(r) for r, moved in zip(readings, is_moved, strict=True) if not moved
        }
        edges = [r.edge for r, moved in zip(readings, is_moved, strict=True) if moved]
        self.once_moved |= set(edges)
        for reading, row in zip(readings, relative, strict=True):
            way = abs(_log(reading.mean) - math.log(self.problem.targets[reading.edge]))
            self.efforts.setdefault(reading.edge, way / max(float(row.norm()), 1e-12))
            self.ways.setdefault(reading.edge, way)
        before = self.edges
        if edges != self.edges:
            self.tracker, self.edges = Tracker(), edges
        self.sensitivities.take(relative[is_moved], is_near=edges == before and self.course.is_near)
        self._observe([r for r in readings if r.edge in edges])
        self._means = {r.edge: r.mean for r in readings}
        self._std_errors = {r.edge: r.std_error for r in readings if r.edge in edges}
        self.trail.read({edge: _log(mean) for edge, mean in self._means.items()})

    def _observe(self, readings: Sequence[Reading]) -> None:
        """Let the estimates of the movable edges take in readings of them."""
        logs = [math.log(max(r.mean, 1e-12) / self.problem.targets[r.edge]) for r in readings]
        noise = [(r.std_error / max(r.mean, 1e-12)) ** 2 + _LEAST_VARIANCE for r in readings]
        self.tracker.observe(
            torch.tensor(logs, dtype=torch.float64), torch.tensor(noise, dtype=torch.float64)
        )

    def _note(self, iteration: int) -> None:
        errors = self.errors()
        largest = max(float(errors.abs().max()) if len(errors) else 0.0, self._largest_lost())
        named = dict(zip(self.edges, errors.tolist(), strict=True))
        self.course.note(largest, self._noise(errors), self.values, named)
        if self.course.is_near:
            self._average.add(self.values)
        estimates = [self.problem.targets[e] + float(x) for e, x in zip(self.edges, errors, strict=True)]
        radii = self._means | dict(zip(self.edges, estimates, strict=True))
        seconds = time.perf_counter() - self._start
        self.history.append(Progress(iteration + 1, radii, largest, seconds))

    def _noise(self, errors: Tensor) -> float:
        """How far the largest error may be off by chance; nothing where steps that follow it lead astray."""
        if not len(errors) or not self.is_predictable():
            return 0.0
        return float(self._spread()[errors.abs().argmax()])

    def _spread(self) -> Tensor:
        """How well the radii are known: the standard errors of their estimates."""
        return self.tracker.variance.sqrt() * self.problem.in_order(self.problem.targets, self.edges)

    def _largest_lost(self) -> float:
        """The largest error of a radius that was moved before, and is moved by nothing now."""
        lost = self.once_moved & set(self.unmoved)
        return max((abs(self._means[edge] - self.problem.targets[edge]) for edge in lost), default=0.0)

    def _look_closer(self, readings: Sequence[Reading]) -> dict[Edge, int]:
        """Double the points of edges that are too noisy; the doublings before, of those."""
        targets, tolerance = self.problem.targets, self.problem.tolerance
        largest = max((abs(r.mean - targets[r.edge]) for r in readings), default=0.0)
        found = {}
        for reading in sorted(readings, key=lambda reading: -reading.std_error):
            edge, count = reading.edge, self.doublings.get(reading.edge, 0)
            more = self.doublings | {edge: count + 1}
            is_free = self.problem.is_free(more)
            wanted = _QUITE * tolerance if is_free else max(_QUITE * tolerance, largest / 3)
            if reading.std_error > wanted and (is_free or self.problem.can_afford(more, self.course.best)):
                self.doublings, found[edge] = more, count
        return found

    def errors(self) -> Tensor:
        """Estimated radius - target of every edge that can be moved."""
        targets = self.problem.in_order(self.problem.targets, self.edges)
        return targets * (self.tracker.error.exp() - 1) if self.tracker.error is not None else targets

    def is_within(self) -> bool:
        """Whether every estimate is within tolerance, and not by mere chance."""
        return self._are_within(0.5)

    def is_centred(self) -> bool:
        """Whether no step is worth its while before a confirmation: one takes many points near the edge."""
        return bool((self.errors().abs() <= _CENTRED * self.problem.tolerance).all())

    def is_settled(self) -> bool:
        """Whether every estimate is within tolerance, and known well enough to say so."""
        return self._are_within(1.0)

    def is_at_targets(self) -> bool:
        """Whether every estimate that a confirmation has sharpened is within tolerance beyond its noise."""
        return self._are_within(1.0, 1.0)

    def _are_within(self, share: float, part: float = SETTLED) -> bool:
        """Whether errors, and so much of their noise, are within this part of the tolerance."""
        errors = self.errors().abs()
        if not len(errors):
            return True
        return bool((errors + share * self._spread() <= part * self.problem.tolerance).all())


def _log(mean: float) -> float:
    return math.log(max(mean, 1e-12))
