"""Rescaling: a few unknowns are moved until every radius is at its target."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lsc_graph.pretraining.candidates import Average, Candidate, Candidates, missed
from lsc_graph.pretraining.course import Course
from lsc_graph.pretraining.fit import Fit, Progress, Report, how_sure, later, why_missed, why_unmoved
from lsc_graph.pretraining.gauss_newton import (
    Tracker,
    least_norm_step,
    nearest_rows,
    unattainable_share,
    units_of,
)
from lsc_graph.pretraining.last_step import LastStep
from lsc_graph.pretraining.probes import best_probe, radii_without_weights
from lsc_graph.pretraining.problem import Problem
from lsc_graph.pretraining.reading import Edge, NotFiniteError, Reading
from lsc_graph.pretraining.shards import total
from lsc_graph.pretraining.slopes import are_moved, relative_slopes, slopes_of
from lsc_graph.pretraining.trail import Trail
from lsc_graph.pretraining.transitions import find_transitions, followed
from lsc_graph.pretraining.unknowns import Unknowns

_DAMPING = 1e-3
_SPEED_UP, _SLOW_DOWN, _SLOWEST = 1.2, 0.6, 0.1
# After so many iterations in vain, see whether a radius moves at all along whole trajectories.
_DOUBT = 4
# Near the targets sensitivities are averaged, the newest with this share at least.
_LEAST_SHARE = 0.15
_LEAST_VARIANCE = 1e-6
# Estimates must be a little nearer than the tolerance: fresh points will disagree with them.
_SETTLED = 0.9
# Nearer than this share of the tolerance nothing is gained by one more step.
_CENTRED = 0.5
# An edge's points are doubled so often at most from one iteration to the next.
_MOST_DOUBLINGS = 2
# A radius that has come nearer than this share of its way at first does not stand still: it is noisy.
_MOSTLY = 0.5
# After a step that changes log radii by so little values alone are looked at, where they hardly scatter: so
# often at most, while the largest error falls to this share.
_SHORT, _MOST_LOOKS, _NEARER = 0.6, 3, 0.5
# Radii that were left out are lost where the loss of all is so many times what it was at first.
_LOST = 1.5
# Finite changes are looked for so often at most.
_MOST_JUMPS = 4
# Where all radii in time are below this one, derivatives are followed back in time.
_CONTRACTING = 0.9
# Where standard errors are so small a part of means, fewer points serve for derivatives.
_QUIET = 0.05
# A fit that is stuck goes on from the best that it has come by, if that has got better by this factor.
_MOST_ROUNDS, _BETTER = 4, 0.8
_KEPT = (
    "values", "start", "earlier", "given_up", "edges", "unmoved", "efforts", "ways", "iterations",
    "doublings", "_pace", "_signs", "_means", "_rounds",
    "any_held", "sensitivities", "_num_averaged", "_std_errors", "tried", "bare", "jumps",
)  # fmt: skip
State = dict[str, Any]
Keep = Callable[[State], None]
_REACHED = "every radius that can be moved is at its target"
_NOISE = "all samples that can be afforded do not tell whether every radius is within tolerance"


def rescale(
    problem: Problem,
    values: Sequence[Tensor],
    max_iterations: int,
    report: Report = lambda progress: None,
    keep: Keep | None = None,
    resumed: State | None = None,
) -> Fit:
    """Run until every estimate is within tolerance and fresh points agree, or nothing more is gained.

    Where moving the unknowns has brought a radius to where nothing moves it any more, but not to its target,
    the weights were changed in vain: the fit starts again without the radii that asked for most. Where some
    stay far from their targets, it goes on for the others from the best that was found.

    Args:
        problem: what to fit.
        values: of the weights, at first.
        max_iterations: at most so many steps.
        report: called after every iteration.
        keep: called after every iteration with what is needed to go on from there.
        resumed: what `keep` was given, to go on from there.
    """
    given_up: dict[Edge, str] = {}
    earlier, tried, jumps, held = (0, 0.0), dict[Edge, int](), 0, False
    candidates = Candidates(problem)
    if resumed is not None:
        given_up = dict(resumed["given_up"])
    while True:
        run = _Run(problem, [value.clone() for value in values], given_up, candidates, earlier)
        run.tried, run.jumps, run.any_held = tried, jumps, held
        if resumed is not None:
            run.restore(resumed)
            resumed = None
        fit = _finished(run, max_iterations, later(report, run.earlier[0]), keep)
        if fit.is_reached:
            return run.with_earlier(fit)
        lost, in_the_way = run.lost(), run.in_the_way()
        if not (lost or in_the_way) or run.earlier[0] + fit.iterations >= max_iterations:
            return run.with_earlier(fit)
        given_up |= lost or in_the_way
        held = run.any_held or any(map(run.is_held, lost or in_the_way))
        values, tried, jumps = run.start if lost else fit.values, run.tried, run.jumps
        earlier = (run.earlier[0] + fit.iterations, run.earlier[1] + fit.seconds)


def _finished(run: _Run, max_iterations: int, report: Report, keep: Keep | None) -> Fit:
    try:
        for iteration in range(run.iterations, max_iterations - run.earlier[0]):
            run.iterate(iteration)
            report(run.history[-1])
            if run.jumps_off(iteration):
                _keep(run, keep)
                continue
            if run.is_within() and (run.is_centred() or not run.is_predictable()):
                if run.is_confirmed(iteration):
                    return run.result(_REACHED)
                if run.is_noise_left():
                    return run.result(_NOISE)
            if run.is_stuck():
                if run.goes_on():
                    _keep(run, keep)
                    continue
                return run.result(run.why_stuck())
            run.move()
            if run.arrives(iteration):
                return run.result(_REACHED)
            _keep(run, keep)
    except NotFiniteError as error:
        if not run.history:
            raise
        return run.stopped(f"stopped at the last good weights: {error.what}, {error.where}")
    return run.result(f"the {max_iterations} iterations given are used up")


def _keep(run: _Run, keep: Keep | None) -> None:
    if keep is not None:
        keep(run.state())


class _Run:
    """The state of one fit."""

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
        self.sensitivities = torch.zeros(0)
        self.unknowns: Unknowns | None = None
        self.iterations = self.jumps = 0
        self.any_held = False
        self.doublings: dict[Edge, int] = {}
        self.tried: dict[Edge, int] = {}
        self.bare: dict[Edge, float] = {}
        self.trail = Trail()
        self.course = Course(problem.tolerance, values)
        self._pace = self._signs = torch.zeros(0, dtype=torch.float64)
        self._std_errors: dict[Edge, float] = {}
        self._num_averaged = self._rounds = 0
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
        self._last = None if state["last"] is None else LastStep(**state["last"])
        self.candidates.restore(state["candidates"])
        self._average.count, self._average.values = state["average"]
        self._start = time.perf_counter() - state["seconds"]

    def iterate(self, iteration: int) -> None:
        """Take a reading with sensitivities, and update the estimates."""
        problem = self.problem
        num_samples, num_times = problem.effort.of_derivatives(
            max(self.doublings.values(), default=0),
            is_quiet=self._is_quiet(),
            is_predictable=self.is_predictable(),
        )
        seed, is_predictable = problem.seed_of(iteration, 0), self.is_predictable()
        points = (num_samples, num_times, seed)
        while True:
            self.unknowns = self._unknowns(seed)
            leaves = [value.detach().requires_grad_() for value in self.values]
            readings, slopes = self._slopes(leaves, points, through_time=is_predictable)
            if self._last is None or not self._last.has_failed(problem, readings, self.trail, points):
                break
            self._shorten(self._last.shortened(), problem.seed_of(iteration - 1, 0))
        is_moved = are_moved(readings, slopes)
        is_doubtful = not bool(is_moved.all()) or self.course.since_best % _DOUBT == _DOUBT - 1
        if is_doubtful and problem.reader.is_recurrent:
            # Moved by way of earlier steps alone, or held still by them.
            _, whole = self._slopes(leaves, points, through_time=True)
            slopes = torch.where((is_moved & are_moved(readings, whole))[:, None], slopes, whole)
        more = problem.seed_of(iteration, 0) + 1_000_000_007
        self._update(problem.sharpened(readings, self.values, self.doublings, more), slopes)
        self.iterations = iteration + 1
        self._note(iteration)

    def _unknowns(self, seed: int) -> Unknowns:
        """What may be changed of the weights as they are."""
        problem = self.problem
        sample = problem.draw(seed, 1)[0]
        transitions = find_transitions(problem.reader, problem.weights, self.values, sample)
        return Unknowns(problem.weights, problem.widths, transitions)

    def _shorten(self, last: LastStep, seed: int) -> None:
        """Go back, and a shorter way from there."""
        self._last, self.values = last, last.values
        self.tracker = last.tracker_before()
        self.tracker.predict(torch.tensor([last.changes[edge] for edge in self.edges], dtype=torch.float64))
        self.trail.plans[-1] = dict(last.changes)
        self.course.slow_down()
        self.unknowns = self._unknowns(seed)
        with torch.no_grad():
            self.values, _ = self._moved(last.step)

    def _is_quiet(self) -> bool:
        """Whether all means were known to a small part of themselves, from as few points as at first."""
        errors = self._std_errors
        return self.is_predictable() and all(errors[edge] <= _QUIET * self._means[edge] for edge in errors)

    def is_predictable(self) -> bool:
        """Whether states of long ago are forgotten, so that derivatives through time tell what steps do."""
        own = [mean for (source, target), mean in self._means.items() if source == target]
        return bool(self._means) and max(own, default=0.0) < _CONTRACTING

    def _slopes(
        self, leaves: Sequence[Tensor], points: tuple[int, int, int], *, through_time: bool
    ) -> tuple[list[Reading], Tensor]:
        assert self.unknowns is not None
        readings = self.problem.read(leaves, *points, through_time=through_time)
        readings = [reading for reading in readings if reading.edge not in self.given_up]
        return readings, total(slopes_of(readings, leaves, self.unknowns))

    def _update(self, readings: Sequence[Reading], slopes: Tensor) -> None:
        is_moved, relative = are_moved(readings, slopes), relative_slopes(readings, slopes)
        self.unmoved = {
            r.edge: why_unmoved(r) for r, moved in zip(readings, is_moved, strict=True) if not moved
        }
        edges = [r.edge for r, moved in zip(readings, is_moved, strict=True) if moved]
        self.once_moved |= set(edges)
        for reading, row in zip(readings, relative, strict=True):
            way = abs(math.log(max(reading.mean, 1e-12) / self.problem.targets[reading.edge]))
            self.efforts.setdefault(reading.edge, way / max(float(row.norm()), 1e-12))
            self.ways.setdefault(reading.edge, way)
        before = self.edges
        if edges != self.edges:
            self.tracker, self.edges = Tracker(), edges
        self._take_means(relative[is_moved], is_same=edges == before)
        self._observe([r for r in readings if r.edge in edges])
        self._means = {r.edge: r.mean for r in readings}
        self._std_errors = {r.edge: r.std_error for r in readings if r.edge in edges}
        self.trail.read({edge: math.log(max(mean, 1e-12)) for edge, mean in self._means.items()})

    def _take_means(self, found: Tensor, *, is_same: bool) -> None:
        """Sensitivities at few points are noisy: where the weights hardly move any more, take means."""
        is_near = is_same and self.course.is_near
        self._num_averaged = (
            self._num_averaged + 1 if is_near and found.shape == self.sensitivities.shape else 1
        )
        share = max(1 / self._num_averaged, _LEAST_SHARE)
        self.sensitivities = (
            found if share == 1 else self.sensitivities + share * (found - self.sensitivities)
        )

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
        self._look_closer(largest)
        estimates = [self.problem.targets[e] + float(x) for e, x in zip(self.edges, errors, strict=True)]
        radii = self._means | dict(zip(self.edges, estimates, strict=True))
        seconds = time.perf_counter() - self._start
        self.history.append(Progress(iteration + 1, radii, largest, seconds))

    def _noise(self, errors: Tensor) -> float:
        """How far the largest error may be off by chance; nothing where steps that follow it lead astray."""
        if not len(errors) or not self.is_predictable():
            return 0.0
        spread = self.tracker.variance.sqrt() * self.problem.in_order(self.problem.targets, self.edges)
        return float(spread[errors.abs().argmax()])

    def _largest_lost(self) -> float:
        """The largest error of a radius that was moved before, and is moved by nothing now."""
        lost = self.once_moved & set(self.unmoved)
        return max((abs(self._means[edge] - self.problem.targets[edge]) for edge in lost), default=0.0)

    def _look_closer(self, largest: float) -> None:
        """More points of an edge from now on, where its noise is not small beside the largest error."""
        noise, wanted = dict(self._std_errors), max(self.problem.tolerance * 0.75, largest / 3)
        for edge in sorted(noise, key=lambda edge: -noise[edge]):
            # Step by step: the noise of a few points is hardly known itself.
            for _ in range(_MOST_DOUBLINGS):
                more = self.doublings | {edge: self.doublings.get(edge, 0) + 1}
                if noise[edge] <= wanted or not self.problem.can_afford(more, self.course.best):
                    break
                self.doublings = more
                noise[edge] /= math.sqrt(2)

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

    def _are_within(self, share: float) -> bool:
        errors = self.errors().abs()
        if not len(errors):
            return True
        spread = self.tracker.variance.sqrt() * self.problem.in_order(self.problem.targets, self.edges)
        return bool((errors + share * spread <= _SETTLED * self.problem.tolerance).all())

    def is_confirmed(self, iteration: int, look: int = 0) -> bool:
        """Whether independent points agree that every radius that can be moved is at its target.

        They also sharpen the estimates. The weights are those after so many of this iteration's steps.
        """
        problem = self.problem
        if not self.edges:
            return True
        seed = problem.seed_of(iteration, 1) + look * 500_000_003
        chosen = problem.estimate(self.values, seed, problem.tolerance / 3, until_off=True)
        self._observe([chosen[edge] for edge in self.edges])
        self._confirmed = chosen
        return self.is_settled() and all(problem.agrees(chosen[edge]) for edge in self.edges)

    def arrives(self, iteration: int) -> bool:
        """Whether this iteration's step has led to the targets, or a few more by the same derivatives do.

        Values alone cost less than derivatives: near the targets they say enough for the next step.
        """
        largest = math.inf
        for look in range(1, _MOST_LOOKS + 1):
            if not (self.is_predictable() and (self.is_settled() or self._is_worth_a_look())):
                return False
            if self.is_confirmed(iteration, look):
                return True
            before, largest = largest, float(self.errors().abs().max())
            if look == _MOST_LOOKS or largest > _NEARER * before:
                return False
            self._means |= {edge: self._confirmed[edge].mean for edge in self.edges}
            self.trail.read({edge: math.log(max(mean, 1e-12)) for edge, mean in self._means.items()})
            self.move(is_sure=True)
        return False

    def _is_worth_a_look(self) -> bool:
        """Whether a step was short, and leads to all targets if derivatives are right."""
        assert self._last is not None
        longest = max(map(abs, self._last.changes.values()), default=0.0)
        leads = self.errors().abs() <= _SETTLED * self.problem.tolerance
        return self._is_quiet() and longest <= _SHORT and bool(leads.all())

    def is_noise_left(self) -> bool:
        """Whether all that speaks against a confirmation is noise that no more points can be afforded for."""
        readings = [self._confirmed[edge] for edge in self.edges]
        return self.is_settled() and all(map(self.problem.is_as_near_as_known, readings))

    def jumps_off(self, iteration: int) -> bool:
        """Take a finite change, if a radius stands still and one is found that moves it."""
        still = self._standing_still()
        if not still:
            return False
        assert self.unknowns is not None
        seed = self.problem.seed_of(iteration, 0) + 1_500_000_001
        self.bare |= radii_without_weights(self.problem, self.values, still, seed)
        held = [edge for edge in still if self.is_held(edge)]
        self.tried |= dict.fromkeys(held, 0)
        still = [edge for edge in still if edge not in held]
        if not still:
            return False
        # Where it started: what was changed since then, in vain, may have led further away.
        most = sum(map(self._way, still))
        found = best_probe(self.problem, self.unknowns, self.start, still, seed, most)
        self.jumps += 1
        if found.values is None:
            self.tried |= dict.fromkeys(still, found.count)
            return False
        self.values = self.start = found.values
        self._last = None
        self.tracker, self.trail, self.edges = Tracker(), Trail(), []
        self.course.begin_again()
        self.course.trust = 1.0
        self._average = Average()
        return True

    def is_held(self, edge: Edge) -> bool:
        """Whether the model's structure alone holds a radius where it is."""
        return abs(self.bare.get(edge, math.inf) - self._means[edge]) <= self.problem.tolerance

    def _standing_still(self) -> list[Edge]:
        """Radii far from their targets that derivatives do not move, and for which nothing else was tried."""
        if self.jumps >= _MOST_JUMPS:
            return []
        still = [edge for edge in self.unmoved if self._means[edge] > 1e-9]
        if self.course.is_held_up():
            still += [e for e in self.edges if self.trail.stands_still(e) and not self._has_come_far(e)]
        off = {edge: self._means[edge] - self.problem.targets[edge] for edge in still}
        return [edge for edge in still if self.course.is_far(off[edge]) and edge not in self.tried]

    def _has_come_far(self, edge: Edge) -> bool:
        """Whether most of the way from where a radius was at first to its target is done."""
        return self._way(edge) < _MOSTLY * self.ways[edge]

    def _way(self, edge: Edge) -> float:
        """How far a log radius is from its target."""
        return abs(math.log(max(self._means[edge], 1e-12) / self.problem.targets[edge]))

    def lost(self) -> dict[Edge, str]:
        """Of the radii that are not at their targets, those that asked for most, if one was lost.

        That one was moved until nothing moved it any more: it may have been carried off by the others.
        """
        targets, tolerance = self.problem.targets, self.problem.tolerance
        lost = {
            edge: f"{reason} on from {self._means[edge]:.3f}, where it stands still"
            for edge, reason in self.unmoved.items()
            if edge in self.once_moved and abs(self._means[edge] - targets[edge]) > tolerance
        }
        lost = {edge: reason + self._beyond_small_changes(edge) for edge, reason in lost.items()}
        errors = dict(zip(self.edges, self.errors().tolist(), strict=True))
        off = {edge: self._how_far(edge, error) for edge, error in errors.items() if abs(error) > tolerance}
        return self._most_demanding(off | lost) if lost else {}

    def _how_far(self, edge: Edge, error: float) -> str:
        """How near a radius came that asked for too much beside others, and what steps did to it."""
        count, meant, came = self.trail.outcome(edge)
        way = "above" if error > 0 else "below"
        return (
            f"{abs(error):.3f} {way} its target at best, beside {len(self.edges) - 1} other radii: the last"
            f" {count} steps were to change it by a factor of {math.exp(meant):.3g} in all and changed it by"
            f" {math.exp(came):.3g}; it was then left out of the fit"
        )

    def _beyond_small_changes(self, edge: Edge) -> str:
        """What larger changes would do."""
        if edge in self.bare and self.is_held(edge):
            return f": with every trained weight at zero it would still be {self.bare[edge]:.3f}"
        count = self.tried.get(edge, 0)
        return f": no small change does, nor any of {count} large ones" if count else ": no small change does"

    def in_the_way(self) -> dict[Edge, str]:
        """Radii that were far from their targets even at best, in a fit that is stuck with them."""
        errors = self.course.best_errors
        far = [edge for edge, error in errors.items() if self.course.is_far(error)]
        if not far or not self.is_stuck():
            return {}
        # One that nothing moves, whatever was tried, rather than those that may suffer from it.
        far = [edge for edge in far if self._is_in_vain(edge)] or far
        chosen = self._most_demanding({edge: self._how_far(edge, errors[edge]) for edge in far})
        return chosen if set(self.edges) - set(chosen) else {}

    def _most_demanding(self, candidates: Mapping[Edge, str]) -> dict[Edge, str]:
        """Those that asked for the largest changes at first."""
        most = max(self.efforts[edge] for edge in candidates)
        order = list(self.efforts)
        chosen = (edge for edge in candidates if self.efforts[edge] > most / 2)
        return {edge: candidates[edge] for edge in sorted(chosen, key=order.index)}

    def is_stuck(self) -> bool:
        """Whether nothing can be moved, many iterations brought nothing, or they lead away."""
        if not self.edges or self.course.has_gone_astray() or self.course.is_over():
            return True
        return self.course.is_held_up() and any(map(self._is_in_vain, self.edges))

    def why_stuck(self) -> str:
        """Why nothing is to be gained by going on."""
        vain = [" -> ".join(edge) for edge in self.edges if self._is_in_vain(edge)]
        if vain and not self.course.has_gone_astray():
            return f"steps do not move the radius of {vain[0]}, however large"
        return self.course.why_over()

    def _is_in_vain(self, edge: Edge) -> bool:
        """Whether steps that were to move a radius did not, and nothing else that was tried did."""
        return edge in self.tried and self.trail.stands_still(edge)

    def goes_on(self) -> bool:
        """Go on from the best weights so far, as fresh points see them, if they have got better."""
        if not self.edges or self._rounds >= _MOST_ROUNDS:
            return False
        targets = self.problem.targets
        before = min((c.loss(targets) for c in self.candidates.found), default=math.inf)
        best = self._take_stock()
        self._rounds += 1
        if not missed(best, self.problem, self.edges) or best.loss(targets) > _BETTER**2 * before:
            return False
        self.values, self._last = best.values, None
        self.tracker, self.trail = Tracker(), Trail()
        self._observe([best.readings[edge] for edge in self.edges])
        self.course.begin_again(best.largest_error(targets, self.edges))
        self.course.best_values, self._average = self.values, Average()
        return True

    def _take_stock(self) -> Candidate:
        """The best of all weights so far: of many estimates the smallest error is small by chance, too."""
        seed = self.problem.seed_of(self.iterations, 1)
        averaged = self._average.values if self._average.count > 1 else self.values
        for values in (self.course.best_values, averaged):
            self.candidates.look_at(values, seed)
        return self.candidates.best()

    def move(self, *, is_sure: bool = False) -> None:
        """One step of the unknowns."""
        assert self.unknowns is not None
        assert self.tracker.error is not None
        units = units_of(self.sensitivities)
        errors = self.tracker.error if is_sure else self._damped(self.tracker.error)
        step = units * least_norm_step(self.sensitivities * units, errors, _DAMPING)
        limits = self.unknowns.limits(units)
        step = step.clamp(-limits, limits)
        with torch.no_grad():
            values, step = self._moved(step)
        changes = self.sensitivities @ step
        by_edge = dict(zip(self.edges, changes.tolist(), strict=True))
        self._last = LastStep(self.values, step, vars(self.tracker).copy(), by_edge)
        self.tracker.predict(changes)
        self.trail.plan(by_edge)
        self.values = values

    def _moved(self, step: Tensor) -> tuple[list[Tensor], Tensor]:
        """The weights after a step, and how much of it could be done."""
        assert self.unknowns is not None
        unknowns, ways = self.unknowns, self.unknowns.ways(step)
        values = unknowns.apply(self.values, unknowns.with_ways(step, dict.fromkeys(ways, 0.0)).float())
        if not ways:
            return values, step
        problem = self.problem
        sample = problem.draw(problem.seed_of(self.iterations - 1, 0), 1)[0]
        values, ways = followed(problem.reader, problem.weights, values, sample, unknowns.transitions, ways)
        return values, unknowns.with_ways(step, ways)

    def _damped(self, errors: Tensor) -> Tensor:
        """Errors that change their sign again and again count less: noise, and kinks of a radius."""
        signs = errors.sign()
        if len(self._signs) == len(signs):
            factor = torch.where(signs == self._signs, _SPEED_UP, _SLOW_DOWN)
            self._pace = (self._pace * factor).clamp(_SLOWEST, 1.0)
        else:
            self._pace = torch.ones_like(errors)
        self._signs = signs
        return self.course.trust * self._pace * errors

    def with_earlier(self, fit: Fit) -> Fit:
        """An outcome with the iterations and seconds of earlier starts."""
        return replace(
            fit, iterations=fit.iterations + self.earlier[0], seconds=fit.seconds + self.earlier[1]
        )

    def stopped(self, stop_reason: str) -> Fit:
        """The best so far, where nothing more can be computed."""
        try:
            return self.result(stop_reason)
        except NotFiniteError:
            reasons = self.given_up | self.unmoved
            seconds = time.perf_counter() - self._start
            return Fit(
                self.course.best_values, self.iterations, False, seconds, stop_reason, reasons, self.history
            )

    def result(self, stop_reason: str) -> Fit:
        """The outcome as it stands."""
        values, reasons, seen = self.values, self.given_up | self.unmoved, self._confirmed
        is_reached = stop_reason == _REACHED
        if is_reached and not set(self.problem.targets) <= set(self.edges):
            seed = self.problem.seed_of(self.iterations, 1)
            own = self.candidates.look_at(self.values, seed)
            first = self.candidates.look_at(self.start, seed)
            seen, reasons = own.readings, self._reasons(own)
            if own.loss(self.problem.targets) > _LOST * first.loss(self.problem.targets):
                is_reached, stop_reason = False, "a radius that was left out of the fit was lost"
        if not is_reached and (self.edges or self.once_moved):
            best = self._take_stock()
            values, why, seen = best.values, self._why_missed(best), best.readings
            reasons = self._reasons(best) | why
            is_reached = bool(self.edges) and not why
            stop_reason = _REACHED if is_reached else stop_reason
        if self.iterations and not self.edges:
            values = values if self.once_moved else self.course.best_values
            is_reached, stop_reason = False, "no radius can be moved"
        return Fit(
            values=values,
            iterations=self.iterations,
            is_reached=is_reached and not reasons,
            seconds=time.perf_counter() - self._start,
            stop_reason=stop_reason + (self._how_sure(seen) if is_reached else ""),
            reasons=reasons,
            history=self.history,
            is_chance=bool(self.given_up) and not self.any_held,
        )

    def _reasons(self, found: Candidate) -> dict[Edge, str]:
        """Why the radii that were not fitted are not at their targets."""
        kept = {edge: why for edge, why in (self.given_up | self.unmoved).items() if edge in found.readings}
        numbers = {edge: found.readings[edge] for edge in missed(found, self.problem, list(kept))}
        return {
            edge: f"{kept[edge]}; with the weights found it is {reading.mean:.3f} (± {reading.std_error:.3f})"
            for edge, reading in numbers.items()
        }

    def _how_sure(self, readings: Mapping[Edge, Reading]) -> str:
        own = [readings[edge] for edge in self.edges if edge in readings]
        return how_sure([r for r in own if not self.problem.is_sure(r)], self.problem.targets)

    def _why_missed(self, best: Candidate) -> dict[Edge, str]:
        if self.tracker.error is None or not self.edges:
            return {}
        shares = unattainable_share(self.sensitivities, self.tracker.error).tolist()
        nearest = nearest_rows(self.sensitivities)
        off = missed(best, self.problem, self.edges)
        return {
            edge: why_missed(
                best.readings[edge],
                self.problem.targets[edge],
                self.problem.tolerance,
                share=share,
                rival=None if near is None else self.edges[near],
                steps=self.trail.outcome(edge),
            )
            for edge, share, near in zip(self.edges, shares, nearest, strict=True)
            if edge in off
        }
