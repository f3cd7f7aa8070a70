"""Finite changes, tried by measurement, where derivatives see no way.

A radius may stand on a plateau: one branch of a maximum decides it, and nothing small reaches the other. Or
gates are saturated, so that nothing small is felt at all: then all weights are made smaller together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lsc_graph.pretraining.estimate import work_of
from lsc_graph.pretraining.problem import Problem
from lsc_graph.pretraining.reading import Edge, NotFiniteError, Reading
from lsc_graph.pretraining.unknowns import Change, Unknowns

_FACTOR = math.log(2)
_SIZES = {
    Change.SHIFT: (-6.0, 6.0, -3.0, 3.0, -1.0, 1.0),
    Change.SCALE: (-_FACTOR, _FACTOR),
    Change.TRANSITION: (-_FACTOR, _FACTOR),
}
# Of all weights together: the first one that helps, for of small weights nothing is left to train.
_JOINT = (-1.0, -2.0, -4.0)
# So often the way to a change that goes too far is halved.
_HALVINGS = 6
_POINTS = (2, 2)
# So many changes are tried at most, or as many as so many operations on spectra allow.
_MOST, _MOST_WORK = 400, 3e9
# A change is worth taking if it leaves at most this share of the errors.
_WORTH = 0.9
# Smaller relative changes under a change of everything are rounding errors.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Probed:
    """How many changes were tried; the weights at the best one if it is worth taking."""

    count: int
    values: list[Tensor] | None


def best_probe(
    problem: Problem,
    unknowns: Unknowns,
    values: Sequence[Tensor],
    still: Collection[Edge],
    seed: int,
    most: float = math.inf,
) -> Probed:
    """The change that brings some radii nearest to their targets: of a single unknown, or of all.

    Args:
        problem: what is fitted.
        unknowns: what may be changed.
        values: of the weights, now.
        still: the edges that stand still.
        seed: of the points, the same for every change.
        most: the sum of the log errors of these radii where the fit stands, which must become less.
    """

    def logs(step: Tensor) -> list[float]:
        with torch.no_grad():
            found = _read(problem, unknowns.apply(values, step), still, seed)
        return [math.log(max(r.mean, 1e-12) / problem.targets[r.edge]) for r in found]

    at_first = logs(torch.zeros(len(unknowns)))
    if not len(unknowns) or not at_first:
        return Probed(0, None)
    is_felt = _react(at_first, logs(_shaken(len(unknowns))))
    turns = [*_turns(unknowns)] if is_felt else _together(unknowns)
    if not is_felt and not _react(at_first, logs(turns[-1][0])):
        return Probed(0, None)
    most = min(most, _size((at_first, torch.zeros(0))))
    left = min(_MOST, int(_MOST_WORK / work_of(problem.reader, *_POINTS, still)))
    count = 0
    for steps in turns:
        tried = [(logs(step), step) for step in steps[:left]]
        count, left = count + len(tried), left - len(tried)
        too_far = [item for item in tried if item[0] and sum(item[0]) * sum(at_first) < 0]
        if too_far:
            tried += _halved(logs, min(too_far, key=_size)[1], math.copysign(1, sum(at_first)))
            count += _HALVINGS
        best = min(tried, key=_size, default=None)
        if best is not None and _size(best) < _WORTH * most:
            return Probed(count, unknowns.apply(values, best[1]))
    return Probed(count, None)


def _size(item: tuple[list[float], Tensor]) -> float:
    """Of the errors of a try; infinite where nothing could be read."""
    return sum(map(abs, item[0])) if item[0] else math.inf


def _react(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether a change of everything changes anything."""
    return not after or any(abs(x - y) > _ROUNDING for x, y in zip(before, after, strict=True))


def _shaken(count: int) -> Tensor:
    return torch.where(torch.arange(count) % 2 == 0, -0.5, 0.5)


def _halved(
    logs: Callable[[Tensor], list[float]], step: Tensor, sign: float
) -> list[tuple[list[float], Tensor]]:
    """Shares of a step that goes too far, nearer and nearer to where the errors' sum changes its sign."""
    low, high, found = 0.0, 1.0, []
    for _ in range(_HALVINGS):
        share = (low + high) / 2
        found.append((logs(share * step), share * step))
        low, high = (share, high) if sign * sum(found[-1][0]) > 0 else (low, share)
    return found


def radii_without_weights(
    problem: Problem, values: Sequence[Tensor], edges: Collection[Edge], seed: int
) -> dict[Edge, float]:
    """Radii where every trained weight is zero: what a model's structure alone gives."""
    nothing = [torch.zeros_like(value) for value in values]
    return {reading.edge: reading.mean for reading in _read(problem, nothing, edges, seed)}


def _turns(unknowns: Unknowns) -> Iterator[list[Tensor]]:
    """Steps of one unknown each: a change of every unknown in each turn, the largest ones first."""
    for turn in range(max(map(len, _SIZES.values()))):
        steps = []
        for index, unknown in enumerate(unknowns.list):
            sizes = _SIZES[unknown.change]
            if turn < len(sizes):
                steps.append(torch.zeros(len(unknowns)))
                steps[-1][index] = sizes[turn]
        yield steps


def _together(unknowns: Unknowns) -> list[list[Tensor]]:
    """Steps that make every weight smaller, one in each turn."""
    is_scale = torch.tensor([float(unknown.change is Change.SCALE) for unknown in unknowns.list])
    return [[size * is_scale] for size in _JOINT]


def _read(problem: Problem, values: Sequence[Tensor], edges: Collection[Edge], seed: int) -> list[Reading]:
    """Readings; none where something is not finite."""
    try:
        found = problem.read(values, *_POINTS, seed, with_derivative=False, only=edges)
    except NotFiniteError:
        return []
    return found if all(math.isfinite(reading.mean) for reading in found) else []
