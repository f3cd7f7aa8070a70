"""Rescaling: a few unknowns are moved until every radius is at its target."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lsc_graph.errors import AnalysisError
from lsc_graph.pretraining.gauss_newton import Tracker, least_norm_step, unattainable_share
from lsc_graph.pretraining.readings import Edge, Reader, Reading
from lsc_graph.pretraining.trainable import Weight, by_name
from lsc_graph.pretraining.transitions import find_transitions
from lsc_graph.pretraining.unknowns import Change, Unknown, Unknowns
from lsc_graph.sampling import Sample

Draw = Callable[[int, int], Sequence[Sample]]
_LIMITS = {Change.SCALE: 0.7, Change.SHIFT: 1.0, Change.TRANSITION: 2.0}
_DAMPING = 1e-3
# A radius that no unknown moves by more than this share is not moved at all.
_UNMOVED = 1e-3
_SPEED_UP, _SLOW_DOWN, _SLOWEST = 1.2, 0.6, 0.1
_PATIENCE = 12
_LEAST_VARIANCE = 1e-6


@dataclass(frozen=True)
class Effort:
    """How many points an iteration looks at: samples, steps of each, and how often both may double."""

    num_samples: int
    num_times: int
    max_doublings: int = 3

    def at(self, doublings: int) -> tuple[int, int]:
        """Samples and steps after that many doublings: first more samples, then more steps."""
        return self.num_samples * 2**doublings, self.num_times


@dataclass(frozen=True)
class Progress:
    """Where a fit stands: radii by edge as they are estimated, and the largest distance from a target."""

    iteration: int
    radii: dict[Edge, float]
    largest_error: float
    seconds: float


@dataclass
class Fit:
    """The outcome. `reasons` says of every edge that did not reach its target why."""

    values: list[Tensor]
    iterations: int
    is_reached: bool
    seconds: float
    reasons: dict[Edge, str] = field(default_factory=dict)
    history: list[Progress] = field(default_factory=list)


class Rescaler:
    """Fits the unknowns of one model.

    Args:
        reader: takes readings.
        weights: what is trained.
        targets: by edge; edges without one are left alone.
        draw: fresh samples, by seed and number.
        tolerance: how far a radius may be from its target.
        effort: points per iteration.
        seed: of points and samples.
    """

    def __init__(
        self,
        reader: Reader,
        weights: Sequence[Weight],
        targets: Mapping[Edge, float],
        draw: Draw,
        *,
        tolerance: float,
        effort: Effort,
        seed: int,
    ) -> None:
        self.reader, self.weights, self.targets, self.draw = reader, weights, targets, draw
        self.tolerance, self.effort, self.seed = tolerance, effort, seed
        self.widths = {size for layer in reader.layers.values() for s in layer.states for size in s.shape[-1:]}

    def fit(
        self,
        values: Sequence[Tensor],
        max_iterations: int,
        report: Callable[[Progress], None] = lambda progress: None,
        first_iteration: int = 0,
    ) -> Fit:
        """Run until every estimate is within tolerance and fresh points agree, or nothing more is gained."""
        run = _Run(self, [value.clone() for value in values], first_iteration)
        for iteration in range(first_iteration, max_iterations):
            run.iterate(iteration)
            report(run.history[-1])
            if run.is_settled() and run.is_confirmed(iteration):
                return run.result(True)
            if run.is_stuck():
                break
            run.move()
        return run.result(False)

    def read(
        self, values: Sequence[Tensor], num_samples: int, num_times: int, seed: int, *, with_derivative: bool
    ) -> list[Reading]:
        """Readings at fresh points."""
        samples = self.draw(seed, num_samples)
        named = by_name(self.weights, values)
        return self.reader.read(named, samples, num_times, seed, with_derivative=with_derivative)

    def seed_of(self, iteration: int, purpose: int) -> int:
        """A seed of its own for every iteration and purpose."""
        return (self.seed * 1_000_003 + 2 * iteration + purpose) % 2**31


class _Run:
    """The state of one fit."""

    def __init__(self, owner: Rescaler, values: list[Tensor], first_iteration: int) -> None:
        self.owner, self.values = owner, values
        self.tracker = Tracker()
        self.doublings = 0
        self.history: list[Progress] = []
        self.edges: list[Edge] = []
        self.unmoved: dict[Edge, str] = {}
        self.sensitivities = torch.zeros(0)
        self.unknowns: Unknowns | None = None
        self.iterations = first_iteration
        self._best, self._since_best, self._best_values = math.inf, 0, values
        self._pace = self._signs = torch.zeros(0, dtype=torch.float64)
        self._start = time.perf_counter()

    def iterate(self, iteration: int) -> None:
        """Take a reading with sensitivities, and update the estimates."""
        owner = self.owner
        num_samples, num_times = owner.effort.at(self.doublings)
        seed = owner.seed_of(iteration, 0)
        sample = owner.draw(seed, 1)[0]
        transitions = find_transitions(owner.reader, owner.weights, self.values, sample)
        self.unknowns = Unknowns(owner.weights, owner.widths, transitions)
        leaves = torch.zeros(len(self.unknowns), requires_grad=True)
        changed = self.unknowns.apply(self.values, leaves)
        readings = owner.read(changed, num_samples, num_times, seed, with_derivative=True)
        readings = [r for r in readings if r.edge in owner.targets]
        slopes = _slopes(readings, leaves)
        self._update(readings, slopes)
        self.iterations = iteration + 1
        self._note(iteration)

    def _update(self, readings: Sequence[Reading], slopes: Tensor) -> None:
        means = torch.tensor([r.mean for r in readings], dtype=torch.float64)
        relative = slopes / means.clamp_min(1e-12)[:, None]
        is_moved = (relative.norm(dim=1) > _UNMOVED) & (means > 1e-9)
        self.unmoved = {
            r.edge: _why_unmoved(r) for r, moved in zip(readings, is_moved, strict=True) if not moved
        }
        edges = [r.edge for r, moved in zip(readings, is_moved, strict=True) if moved]
        if edges != self.edges:
            self.tracker, self.edges = Tracker(), edges
        self.sensitivities = relative[is_moved]
        self._observe([r for r in readings if r.edge in edges])
        self._means = {r.edge: r.mean for r in readings}

    def _observe(self, readings: Sequence[Reading]) -> None:
        """Let the estimates of the movable edges take in readings of them."""
        logs = [math.log(max(r.mean, 1e-12) / self.owner.targets[r.edge]) for r in readings]
        noise = [(r.std_error / max(r.mean, 1e-12)) ** 2 + _LEAST_VARIANCE for r in readings]
        self.tracker.observe(
            torch.tensor(logs, dtype=torch.float64), torch.tensor(noise, dtype=torch.float64)
        )

    def _note(self, iteration: int) -> None:
        errors = self.errors()
        fixed = [abs(self._means[edge] - self.owner.targets[edge]) for edge in self.unmoved]
        largest = max([float(x) for x in errors.abs()] + fixed, default=0.0)
        if largest < self._best - 0.1 * self.owner.tolerance:
            self._best, self._since_best, self._best_values = largest, 0, self.values
        else:
            self._since_best += 1
        if largest < 3 * self.owner.tolerance and self.doublings < self.owner.effort.max_doublings:
            self.doublings += 1
        estimates = [self.owner.targets[e] + float(x) for e, x in zip(self.edges, errors, strict=True)]
        radii = self._means | dict(zip(self.edges, estimates, strict=True))
        seconds = time.perf_counter() - self._start
        self.history.append(Progress(iteration + 1, radii, largest, seconds))

    def errors(self) -> Tensor:
        """Estimated radius - target of every edge that can be moved."""
        targets = torch.tensor([self.owner.targets[edge] for edge in self.edges], dtype=torch.float64)
        return targets * (self.tracker.error.exp() - 1) if self.tracker.error is not None else targets

    def is_settled(self) -> bool:
        """Whether every estimate is within tolerance, and known well enough to say so."""
        errors = self.errors().abs()
        if not len(errors):
            return True
        targets = torch.tensor([self.owner.targets[edge] for edge in self.edges], dtype=torch.float64)
        spread = self.tracker.variance.sqrt() * targets
        return bool((errors + spread <= self.owner.tolerance).all())

    def is_confirmed(self, iteration: int) -> bool:
        """Whether independent points agree that every radius that can be moved is at its target.

        They also sharpen the estimates.
        """
        owner = self.owner
        count, times = owner.effort.at(owner.effort.max_doublings)
        seed = owner.seed_of(iteration, 1)
        readings = owner.read(self.values, count, times, seed, with_derivative=False)
        chosen = {r.edge: r for r in readings}
        self._observe([chosen[edge] for edge in self.edges])
        return all(abs(chosen[e].mean - owner.targets[e]) <= owner.tolerance for e in self.edges)

    def is_stuck(self) -> bool:
        """Whether nothing can be moved, or many iterations brought nothing."""
        return not self.edges or self._since_best >= _PATIENCE

    def move(self) -> None:
        """One step of the unknowns."""
        assert self.unknowns is not None
        assert self.tracker.error is not None
        step = least_norm_step(self.sensitivities, self._damped(self.tracker.error), _DAMPING)
        step = _limited(step, self.unknowns)
        self.tracker.predict(self.sensitivities @ step)
        with torch.no_grad():
            self.values = self.unknowns.apply(self.values, step.float())

    def _damped(self, errors: Tensor) -> Tensor:
        """Errors that change their sign again and again count less: noise, and kinks of a radius."""
        signs = errors.sign()
        if len(self._signs) == len(signs):
            factor = torch.where(signs == self._signs, _SPEED_UP, _SLOW_DOWN)
            self._pace = (self._pace * factor).clamp(_SLOWEST, 1.0)
        else:
            self._pace = torch.ones_like(errors)
        self._signs = signs
        return self._pace * errors

    def result(self, is_reached: bool) -> Fit:
        """The outcome as it stands."""
        reasons = dict(self.unmoved)
        if not is_reached and self.edges and self.tracker.error is not None:
            share = unattainable_share(self.sensitivities, self.tracker.error)
            for edge, error, part in zip(self.edges, self.errors(), share, strict=True):
                if abs(float(error)) > self.owner.tolerance:
                    reasons[edge] = _why_missed(float(error), float(part))
        return Fit(
            values=self.values if is_reached else self._best_values,
            iterations=self.iterations,
            is_reached=is_reached and not reasons,
            seconds=time.perf_counter() - self._start,
            reasons=reasons,
            history=self.history,
        )


def _slopes(readings: Sequence[Reading], leaves: Tensor) -> Tensor:
    """d mean radius / d unknown, [R, K] float64."""
    rows = []
    for reading in readings:
        assert reading.derivative is not None
        (row,) = (
            torch.autograd.grad(reading.derivative, leaves, retain_graph=True, allow_unused=True)
            if reading.derivative.requires_grad
            else (None,)
        )
        rows.append(torch.zeros(len(leaves)) if row is None else row)
    slopes = torch.stack(rows).double() if rows else torch.zeros(0, len(leaves), dtype=torch.float64)
    if not bool(slopes.isfinite().all()):
        raise AnalysisError("A sensitivity is not a finite number", expected="finite derivatives of all radii")
    return slopes


def _limited(step: Tensor, unknowns: Unknowns) -> Tensor:
    """Every unknown's change cut to what the linear prediction can be trusted for."""
    limits = torch.tensor([_limit(k, unknowns) for k in unknowns.list], dtype=step.dtype)
    return step.clamp(-limits, limits)


def _limit(unknown: Unknown, unknowns: Unknowns) -> float:
    limit = _LIMITS[unknown.change]
    if unknown.change is not Change.TRANSITION:
        return limit
    return min(_LIMITS[Change.SCALE], limit / float(unknowns.transitions[unknown.weight].abs().max()))


def _why_unmoved(reading: Reading) -> str:
    if reading.mean <= 1e-9:
        return "the local Jacobian is zero: the gradient is cut there, and no weight can change that"
    return "no trained weight moves it"


def _why_missed(error: float, share: float) -> str:
    side = "above" if error > 0 else "below"
    if share > 0.5:
        return f"{abs(error):.3f} {side}: the weights that move it move other radii as well"
    return f"{abs(error):.3f} {side}: not reached in the iterations given"


def edges_of(readings: Sequence[Reading]) -> Iterator[Edge]:
    """The edges that readings were taken of."""
    return (reading.edge for reading in readings)
