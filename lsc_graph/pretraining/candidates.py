"""Weights that a fit has come by, compared at points that it never saw: the best ones come out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lsc_graph.pretraining.problem import Problem
from lsc_graph.pretraining.reading import Edge, Reading

_MOST = 4
# A moving average of weights remembers about so many steps.
_MEMORY = 12


@dataclass(frozen=True)
class Candidate:
    """Weights, and every radius at fresh points."""

    values: list[Tensor]
    readings: Mapping[Edge, Reading]

    def loss(self, targets: Mapping[Edge, float]) -> float:
        """The paper's: the squared distances of all radii from their targets."""
        return sum((reading.mean - targets[edge]) ** 2 for edge, reading in self.readings.items())

    def largest_error(self, targets: Mapping[Edge, float], edges: Iterable[Edge]) -> float:
        """The largest distance of a radius from its target, of some edges."""
        return max((abs(self.readings[edge].mean - targets[edge]) for edge in edges), default=0.0)


class Candidates:
    """The best weights that were looked at.

    Args:
        problem: what is fitted.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.found: list[Candidate] = []

    def look_at(self, values: list[Tensor], seed: int) -> Candidate:
        """Read all radii, unless these very weights were looked at before."""
        for candidate in self.found:
            if candidate.values is values:
                return candidate
        found = Candidate(values, self._problem.estimate(values, seed, self._problem.tolerance / 3))
        # Of many candidates one may look best by chance: only a few are kept.
        self.found = sorted([*self.found, found], key=self._loss)[:_MOST]
        return found

    def best(self) -> Candidate:
        """Those with the least loss over all radii."""
        return min(self.found, key=self._loss)

    def _loss(self, candidate: Candidate) -> float:
        return candidate.loss(self._problem.targets)

    def state(self) -> list[Any]:
        """For a checkpoint."""
        return [
            (c.values, [(r.edge, r.values, r.is_radius, r.sizes) for r in c.readings.values()])
            for c in self.found
        ]

    def restore(self, state: Sequence[Any]) -> None:
        """Go on from a state."""
        self.found = [
            Candidate(
                list(values),
                {
                    edge: Reading(edge, points, is_radius, None, sizes)
                    for edge, points, is_radius, sizes in readings
                },
            )
            for values, readings in state
        ]


class Average:
    """A moving average of weights that wander around their targets: it wanders less than they do."""

    def __init__(self) -> None:
        self.count = 0
        self.values: list[Tensor] = []

    def add(self, values: Sequence[Tensor]) -> None:
        """Take in the weights of one step."""
        self.count += 1
        share = max(1 / self.count, 1 / _MEMORY)
        if self.count == 1:
            self.values = [value.clone() for value in values]
        else:
            self.values = [old + share * (new - old) for old, new in zip(self.values, values, strict=True)]


def missed(candidate: Candidate, problem: Problem, edges: Collection[Edge]) -> list[Edge]:
    """The edges of some whose radii are not at their targets."""
    return [edge for edge in edges if not problem.is_reached(candidate.readings[edge])]
