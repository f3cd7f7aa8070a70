"""Rescaling: a few unknowns are moved until every radius is at its target."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lsc_graph.errors import AnalysisError
from lsc_graph.pretraining.estimate import Draw, estimate
from lsc_graph.pretraining.fit import Fit, Progress, Report, why_missed, why_unmoved
from lsc_graph.pretraining.gauss_newton import Tracker, least_norm_step, unattainable_share
from lsc_graph.pretraining.readings import Edge, Reader, Reading
from lsc_graph.pretraining.trainable import Weight, by_name
from lsc_graph.pretraining.transitions import find_transitions
from lsc_graph.pretraining.unknowns import Change, Unknown, Unknowns

_LIMITS = {Change.SCALE: 0.7, Change.SHIFT: 1.0, Change.TRANSITION: 2.0}
_DAMPING = 1e-3
# A radius that no unknown moves by more than this share is not moved at all.
_UNMOVED = 1e-3
_SPEED_UP, _SLOW_DOWN, _SLOWEST = 1.2, 0.6, 0.1
_PATIENCE = 12
_LEAST_VARIANCE = 1e-6
# Estimates must be a little nearer than the tolerance: fresh points will disagree with them.
_SETTLED = 0.75
_REACHED = "every radius that can be moved is at its target"


@dataclass(frozen=True)
class Effort:
    """How many points an iteration looks at: samples, steps of each, and how often both may double."""

    num_samples: int = 2
    num_times: int = 6
    max_doublings: int = 5

    def at(self, doublings: int) -> tuple[int, int]:
        """Samples and steps after that many doublings: samples first, then each in turn."""
        return self.num_samples * 2 ** ((doublings + 1) // 2), self.num_times * 2 ** (doublings // 2)


class Rescaler:
    """Fits the unknowns of one model.

    Args:
        reader: takes readings.
        weights: what is trained.
        targets: by edge; edges without one are left alone.
        draw: fresh samples, by seed and number.
        tolerance: how far a radius may be from its target.
        seed: of points and samples.
        effort: points per iteration.
    """

    def __init__(
        self,
        reader: Reader,
        weights: Sequence[Weight],
        targets: Mapping[Edge, float],
        draw: Draw,
        *,
        tolerance: float,
        seed: int,
        effort: Effort | None = None,
    ) -> None:
        self.reader, self.weights, self.targets, self.draw = reader, weights, targets, draw
        self.tolerance, self.effort, self.seed = tolerance, effort or Effort(), seed
        self.widths = {
            size for layer in reader.layers.values() for s in layer.states for size in s.shape[-1:]
        }

    def fit(
        self,
        values: Sequence[Tensor],
        max_iterations: int,
        report: Report = lambda progress: None,
        first_iteration: int = 0,
    ) -> Fit:
        """Run until every estimate is within tolerance and fresh points agree, or nothing more is gained."""
        run = _Run(self, [value.clone() for value in values], first_iteration)
        for iteration in range(first_iteration, max_iterations):
            run.iterate(iteration)
            report(run.history[-1])
            if run.is_settled() and run.is_confirmed(iteration):
                return run.result(_REACHED)
            if run.is_stuck():
                return run.result(f"no iteration of the last {_PATIENCE} came closer")
            run.move()
        return run.result(f"the {max_iterations} iterations given are used up")

    def read(
        self, values: Sequence[Tensor], num_samples: int, num_times: int, seed: int, *, with_derivative: bool
    ) -> list[Reading]:
        """Readings at fresh points."""
        samples = self.draw(seed, num_samples)
        named = by_name(self.weights, values)
        return self.reader.read(named, samples, num_times, seed, with_derivative=with_derivative)

    def agrees(self, reading: Reading) -> bool:
        """Whether a reading is within tolerance of its target, or as near as its own noise can tell."""
        error = abs(reading.mean - self.targets[reading.edge])
        return error <= max(self.tolerance, 2 * reading.std_error)

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
        self._largest_std_error = 0.0
        self._means: dict[Edge, float] = {}
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
            r.edge: why_unmoved(r) for r, moved in zip(readings, is_moved, strict=True) if not moved
        }
        edges = [r.edge for r, moved in zip(readings, is_moved, strict=True) if moved]
        if edges != self.edges:
            self.tracker, self.edges = Tracker(), edges
        self.sensitivities = relative[is_moved]
        self._observe([r for r in readings if r.edge in edges])
        self._means = {r.edge: r.mean for r in readings}
        self._largest_std_error = max((r.std_error for r in readings if r.edge in edges), default=0.0)

    def _observe(self, readings: Sequence[Reading]) -> None:
        """Let the estimates of the movable edges take in readings of them."""
        logs = [math.log(max(r.mean, 1e-12) / self.owner.targets[r.edge]) for r in readings]
        noise = [(r.std_error / max(r.mean, 1e-12)) ** 2 + _LEAST_VARIANCE for r in readings]
        self.tracker.observe(
            torch.tensor(logs, dtype=torch.float64), torch.tensor(noise, dtype=torch.float64)
        )

    def _note(self, iteration: int) -> None:
        errors = self.errors()
        largest = float(errors.abs().max()) if len(errors) else 0.0
        if largest < self._best - 0.1 * self.owner.tolerance:
            self._best, self._since_best, self._best_values = largest, 0, self.values
        else:
            self._since_best += 1
        is_noisy = self._largest_std_error > self.owner.tolerance / 4
        is_near = largest < 3 * self.owner.tolerance
        if is_near and is_noisy and self.doublings < self.owner.effort.max_doublings:
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
        return bool((errors + spread <= _SETTLED * self.owner.tolerance).all())

    def is_confirmed(self, iteration: int) -> bool:
        """Whether independent points agree that every radius that can be moved is at its target.

        They also sharpen the estimates.
        """
        owner = self.owner
        seed = owner.seed_of(iteration, 1)
        named = by_name(owner.weights, self.values)
        readings = estimate(owner.reader, named, owner.draw, seed, owner.tolerance / 3, owner.targets)
        chosen = {r.edge: r for r in readings}
        if not self.edges:
            return True
        self._observe([chosen[edge] for edge in self.edges])
        return self.is_settled() and all(owner.agrees(chosen[edge]) for edge in self.edges)

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

    def result(self, stop_reason: str) -> Fit:
        """The outcome as it stands."""
        is_reached = stop_reason == _REACHED
        if is_reached and self.unmoved:
            stop_reason = _REACHED if self.edges else "no radius can be moved"
        reasons = dict(self.unmoved)
        if not is_reached and self.edges and self.tracker.error is not None:
            share = unattainable_share(self.sensitivities, self.tracker.error)
            for edge, error, part in zip(self.edges, self.errors(), share, strict=True):
                if abs(float(error)) > self.owner.tolerance:
                    reasons[edge] = why_missed(float(error), float(part))
        return Fit(
            values=self.values if is_reached else self._best_values,
            iterations=self.iterations,
            is_reached=is_reached and not reasons,
            seconds=time.perf_counter() - self._start,
            stop_reason=stop_reason,
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
        raise AnalysisError(
            "A sensitivity is not a finite number", expected="finite derivatives of all radii"
        )
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
