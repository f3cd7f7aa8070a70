"""How a fit stands: whether it is stuck, which radii hold it up, what is said of those it missed."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace

from lsc_graph.pretraining.candidates import Candidate, missed
from lsc_graph.pretraining.fit import Fit, how_sure, why_missed
from lsc_graph.pretraining.fit_state import FitState
from lsc_graph.pretraining.gauss_newton import nearest_rows, unattainable_share
from lsc_graph.pretraining.reading import Edge, NotFiniteError, Reading

# A radius that has come nearer than this share of its way at first does not stand still: it is noisy.
_MOSTLY = 0.5
# Radii that were left out are lost where the loss of all is so many times what it was at first.
_LOST = 1.5
REACHED = "every radius that can be moved is at its target"
NOISE = "all samples that can be afforded do not tell whether every radius is within tolerance"


class Verdicts(FitState):
    """What can be said of a fit as it stands."""

    def is_noise_left(self) -> bool:
        """Whether all that speaks against a confirmation is noise that no more points can be afforded for."""
        readings = [self._confirmed[edge] for edge in self.edges]
        return self.is_settled() and all(map(self.problem.is_as_near_as_known, readings))

    def is_held(self, edge: Edge) -> bool:
        """Whether the model's structure alone holds a radius where it is."""
        return abs(self.bare.get(edge, math.inf) - self._means[edge]) <= self.problem.tolerance

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

    def _take_stock(self) -> Candidate:
        """The best of all weights so far: of many estimates the smallest error is small by chance, too."""
        seed = self.problem.seed_of(self.iterations, 1)
        averaged = self._average.values if self._average.count > 1 else self.values
        for values in (self.course.best_values, averaged):
            self.candidates.look_at(values, seed)
        return self.candidates.best()

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
        is_reached = stop_reason == REACHED
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
            stop_reason = REACHED if is_reached else stop_reason
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
        shares = unattainable_share(self.sensitivities.mean, self.tracker.error).tolist()
        nearest = nearest_rows(self.sensitivities.mean)
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
