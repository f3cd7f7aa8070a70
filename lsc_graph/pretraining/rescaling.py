"""Rescaling: a few unknowns are moved until every radius is at its target."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lsc_graph.pretraining.candidates import Average, Candidates, missed
from lsc_graph.pretraining.fit import Fit, Report, later
from lsc_graph.pretraining.fit_state import SETTLED, State
from lsc_graph.pretraining.fit_verdicts import NOISE, REACHED, Verdicts
from lsc_graph.pretraining.gauss_newton import Tracker
from lsc_graph.pretraining.last_step import LastStep
from lsc_graph.pretraining.measured import can_measure, measured_slopes
from lsc_graph.pretraining.probes import best_probe, radii_without_weights
from lsc_graph.pretraining.problem import Problem
from lsc_graph.pretraining.reading import Edge, NotFiniteError, Reading
from lsc_graph.pretraining.shards import total
from lsc_graph.pretraining.slopes import are_moved, slopes_of
from lsc_graph.pretraining.trail import Trail
from lsc_graph.pretraining.transitions import find_transitions, followed
from lsc_graph.pretraining.unknowns import Unknowns

_SPEED_UP, _SLOW_DOWN, _SLOWEST = 1.2, 0.6, 0.1
# After so many iterations in vain, see whether a radius moves at all along whole trajectories.
_DOUBT = 4
# After a step that changes log radii by so little values alone are looked at, where they hardly scatter: so
# often at most, while the largest error falls to this share.
_SHORT, _MOST_LOOKS, _NEARER = 0.6, 3, 0.5
# Without states that go from step to step radii do what derivatives say: so many looks tell together where
# they are. They are to be as sharp as that part of the tolerance at first, and in all as this one.
_MOST_JOINED, _FIRST_LOOK, _ALL_LOOKS = 6, 1 / 2, 1 / 3
# So many standard errors within the tolerance all looks together are to be.
_MARGIN = 1.5
# Finite changes are looked for so often at most.
_MOST_JUMPS = 4
# A fit that is stuck goes on from the best that it has come by, if that has got better by this factor.
_MOST_ROUNDS, _BETTER = 4, 0.8
# Seeds of several looks at one iteration's weights.
_APART = 100
Keep = Callable[[State], None]


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
    earlier, tried, jumps, held, measures = (0, 0.0), dict[Edge, int](), 0, False, False
    candidates = Candidates(problem)
    if resumed is not None:
        given_up = dict(resumed["given_up"])
    while True:
        run = _Run(problem, [value.clone() for value in values], given_up, candidates, earlier)
        run.tried, run.jumps, run.any_held, run.measures = tried, jumps, held, measures
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
        values = run.start if lost else fit.values
        tried, jumps, measures = run.tried, run.jumps, run.measures
        earlier = (run.earlier[0] + fit.iterations, run.earlier[1] + fit.seconds)


def _finished(run: _Run, max_iterations: int, report: Report, keep: Keep | None) -> Fit:
    try:
        for iteration in range(run.iterations, max_iterations - run.earlier[0]):
            run.iterate(iteration)
            report(run.history[-1])
            if run.begins_to_measure() or run.jumps_off(iteration):
                _keep(run, keep)
                continue
            if run.is_within() and (run.is_centred() or not run.is_predictable()):
                if run.is_confirmed(iteration):
                    return run.result(REACHED)
                if run.is_noise_left():
                    return run.result(NOISE)
            if run.is_stuck():
                if run.goes_on():
                    _keep(run, keep)
                    continue
                return run.result(run.why_stuck())
            run.move()
            if run.arrives(iteration):
                return run.result(REACHED)
            _keep(run, keep)
    except NotFiniteError as error:
        if not run.history:
            raise
        return run.stopped(f"stopped at the last good weights: {error.what}, {error.where}")
    return run.result(f"the {max_iterations} iterations given are used up")


def _keep(run: _Run, keep: Keep | None) -> None:
    if keep is not None:
        keep(run.state())


class _Run(Verdicts):
    """One fit: what it does next."""

    def iterate(self, iteration: int) -> None:
        """Take a reading with sensitivities, and update the estimates."""
        problem = self.problem
        num_samples, num_times = problem.effort.of_derivatives(
            max(self.doublings.values(), default=0),
            is_quiet=self._is_quiet(),
            is_predictable=self.is_predictable(),
        )
        seed = problem.seed_of(iteration, 0)
        points = (num_samples, num_times, seed)
        while True:
            self.unknowns = self._unknowns(seed)
            readings, slopes = self._sensed(points)
            if self._last is None or not self._last.has_failed(problem, readings, self.trail, points):
                break
            self._shorten(self._last.shortened(), problem.seed_of(iteration - 1, 0))
        more = problem.seed_of(iteration, 0) + 1_000_000_007
        self._update(self._sharpened(readings, are_moved(readings, slopes), more), slopes)
        self.iterations = iteration + 1
        self._note(iteration)

    def _sharpened(self, readings: Sequence[Reading], is_moved: Tensor, seed: int) -> Sequence[Reading]:
        """Readings joined with others without derivatives, until those that move are sharp enough."""
        readings = self.problem.sharpened(readings, self.values, self.doublings, seed)
        while more := self._look_closer(list(itertools.compress(readings, is_moved.tolist()))):
            seed += _APART
            readings = self.problem.sharpened(readings, self.values, more, seed)
        return readings

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
        changes = torch.tensor([last.changes[edge] for edge in self.edges], dtype=torch.float64)
        self.tracker.predict(changes, is_whole=self._are_derivatives_whole())
        self.trail.plans[-1] = dict(last.changes)
        self.course.slow_down()
        self.unknowns = self._unknowns(seed)
        with torch.no_grad():
            self.values, _ = self._moved(last.step)

    def _sensed(self, points: tuple[int, int, int]) -> tuple[list[Reading], Tensor]:
        """Readings, and how they answer to the unknowns [R, K]."""
        problem = self.problem
        if self.measures:
            assert self.unknowns is not None
            readings, slopes = measured_slopes(problem, self.unknowns, self.values, points[2])
            kept = [number for number, own in enumerate(readings) if own.edge not in self.given_up]
            return [readings[number] for number in kept], slopes[kept]
        leaves = [value.detach().requires_grad_() for value in self.values]
        readings, slopes = self._slopes(leaves, points, through_time=self.is_predictable())
        is_moved = are_moved(readings, slopes)
        is_doubtful = not bool(is_moved.all()) or self.course.since_best % _DOUBT == _DOUBT - 1
        if is_doubtful and problem.reader.is_recurrent:
            # Moved by way of earlier steps alone, or held still by them.
            _, whole = self._slopes(leaves, points, through_time=True)
            slopes = torch.where((is_moved & are_moved(readings, whole))[:, None], slopes, whole)
        return readings, slopes

    def _slopes(
        self, leaves: Sequence[Tensor], points: tuple[int, int, int], *, through_time: bool
    ) -> tuple[list[Reading], Tensor]:
        assert self.unknowns is not None
        readings = self.problem.read(leaves, *points, through_time=through_time)
        readings = [reading for reading in readings if reading.edge not in self.given_up]
        return readings, total(slopes_of(readings, leaves, self.unknowns))

    def is_confirmed(self, iteration: int, look: int = 0) -> bool:
        """Whether independent points agree that every radius that can be moved is at its target.

        They also sharpen the estimates. The weights are those after so many of this iteration's steps.
        """
        problem = self.problem
        if not self.edges:
            return True
        seed = self._seed_of_look(iteration, look)
        chosen = problem.estimate(self.values, seed, problem.tolerance / 3, until_off=True)
        self._observe([chosen[edge] for edge in self.edges])
        self._confirmed = chosen
        return self.is_at_targets() and all(problem.agrees(chosen[edge]) for edge in self.edges)

    def _seed_of_look(self, iteration: int, look: int) -> int:
        return self.problem.seed_of(iteration, 1) + look * 500_000_003

    def arrives(self, iteration: int) -> bool:
        """Whether this iteration's step has led to the targets, or a few more by the same derivatives do.

        Values alone cost less than derivatives: near the targets they say enough for the next step.
        """
        are_joined = self._are_derivatives_whole()
        sees, most = (self._sees, _MOST_JOINED) if are_joined else (self.is_confirmed, _MOST_LOOKS)
        largest = math.inf
        for look in range(1, most + 1):
            if not (self.is_predictable() and (self.is_settled() or self._is_worth_a_look())):
                return False
            if sees(iteration, look):
                return True
            errors = self.errors()
            before, largest = largest, float(errors.abs().max())
            noise = self._noise(errors) if are_joined else 0.0
            if look == most or largest - noise > _NEARER * before or (are_joined and self._is_blunt()):
                return False
            self._means |= {edge: self._confirmed[edge].mean for edge in self.edges}
            self.trail.read({edge: math.log(max(mean, 1e-12)) for edge, mean in self._means.items()})
            self.move(is_sure=True)
        return False

    def _sees(self, iteration: int, look: int) -> bool:
        """Whether fresh points say, with those of the looks before, that all radii are at their targets.

        A radius that scatters takes many points. What a step was to change is known, and how far such steps
        miss that is learned: a look before it still tells of the radii after it.
        """
        problem = self.problem
        before = self.tracker
        if look == 1:
            self.tracker = Tracker()
        asked = self._asked()
        seed = self._seed_of_look(iteration, look)
        self._confirmed = problem.look(self.values, seed, asked)
        if self._is_blunt():
            self.tracker = before
        self._observe([self._confirmed[edge] for edge in self.edges])
        is_known = bool((self._spread() <= _ALL_LOOKS * problem.tolerance).all())
        if not (is_known and self._are_within(_MARGIN, 1.0)):
            return False
        self._confirmed = {}  # these few points alone say less
        return True

    def _is_blunt(self) -> bool:
        """Whether the last look, with all points that can be afforded, is less sharp than one is to be."""
        readings = [self._confirmed[edge] for edge in self.edges]
        is_rough = any(r.std_error > _FIRST_LOOK * self.problem.tolerance for r in readings)
        return is_rough and not any(map(self.problem.is_surely_off, readings))

    def _asked(self) -> float:
        """The standard error of a look that is needed beside what is known."""
        first, whole = (part * self.problem.tolerance for part in (_FIRST_LOOK, _ALL_LOOKS))
        if self.tracker.error is None:
            return first
        left = 1.1 / whole**2 - 1 / float(self._spread().max()) ** 2
        return first if left <= 0 else min(first, left**-0.5)

    def _is_worth_a_look(self) -> bool:
        """Whether a step was short, and leads to all targets if derivatives are right."""
        assert self._last is not None
        longest = max(map(abs, self._last.changes.values()), default=0.0)
        leads = self.errors().abs() <= SETTLED * self.problem.tolerance
        return self._is_quiet() and longest <= _SHORT and bool(leads.all())

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
        self._begin_at(found.values)
        return True

    def begins_to_measure(self) -> bool:
        """Go back to the start, if derivatives lead nowhere and the model's are a surrogate's."""
        if self.measures or not self.course.is_held_up() or not self.edges:
            return False
        assert self.unknowns is not None
        self.measures = can_measure(self.problem, self.unknowns)
        if self.measures:
            self._begin_at(self.start)
        return self.measures

    def _begin_at(self, values: list[Tensor]) -> None:
        self.values = self.start = values
        self._last = None
        self.tracker, self.trail, self.edges = Tracker(), Trail(), []
        self.course.begin_again()
        self.course.trust = 1.0
        self._average = Average()

    def _standing_still(self) -> list[Edge]:
        """Radii far from their targets that derivatives do not move, and for which nothing else was tried."""
        if self.jumps >= _MOST_JUMPS:
            return []
        still = [edge for edge in self.unmoved if self._means[edge] > 1e-9]
        if self.course.is_held_up():
            still += [e for e in self.edges if self.trail.stands_still(e) and not self._has_come_far(e)]
        off = {edge: self._means[edge] - self.problem.targets[edge] for edge in still}
        return [edge for edge in still if self.course.is_far(off[edge]) and edge not in self.tried]

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

    def move(self, *, is_sure: bool = False) -> None:
        """One step of the unknowns."""
        assert self.unknowns is not None
        assert self.tracker.error is not None
        errors = self.tracker.error if is_sure else self._damped(self.tracker.error)
        step, units = self.sensitivities.step(errors)
        limits = self.unknowns.limits(units)
        step = step.clamp(-limits, limits)
        with torch.no_grad():
            values, step = self._moved(step)
        changes = self.sensitivities.mean @ step
        by_edge = dict(zip(self.edges, changes.tolist(), strict=True))
        self._last = LastStep(self.values, step, vars(self.tracker).copy(), by_edge)
        self.tracker.predict(changes, is_whole=self._are_derivatives_whole())
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
