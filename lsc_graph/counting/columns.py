"""Path counts and path sums column by column: for every layer an array over time, without a grid of objects.

One sweep over the layers serves every cell graph, both directions of bidirectional layers and edges at listed
times included: a layer's time edges are a running sum over its array. Linear in layers x steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lsc_graph.counting.hops import Hop, Weights, groups_of, outgoing
from lsc_graph.errors import AnalysisError

Column = TypeVar("Column")
Times = Mapping[str, Iterable[int]]
"""Chosen states: times by layer."""


class Algebra(Protocol[Column]):
    """How columns are added: exactly, or in logarithms."""

    def start(self, num_steps: int, times: Iterable[int]) -> Column:
        """1 at the given times, 0 elsewhere."""

    def moved(self, column: Column, hop: Hop) -> Column:
        """What a hop brings back from the column of its target to its source."""

    def plus(self, a: Column, b: Column) -> Column:
        """The sum at every time."""

    def running(self, column: Column, hop: Hop) -> Column:
        """The solution x of x = column + moved(x, hop), for a hop of a layer to itself by one step."""

    def stepwise(self, columns: dict[str, Column], hops: Sequence[Hop], order: Sequence[str]) -> None:
        """The same for several layers that feed back into each other, in place, one step after the other."""


def sums_to(
    algebra: Algebra[Column], layers: Sequence[str], hops: Sequence[Hop], num_steps: int, targets: Times
) -> dict[str, Column]:
    """For every layer and time, the sum over all paths from there to the targets.

    Raises:
        AnalysisError: layers feed back into each other in both directions of time, or at listed times.
    """
    onwards = outgoing(hops)
    columns: dict[str, Column] = {}
    for group in reversed(groups_of(layers, hops)):
        for layer in group:
            column = algebra.start(num_steps, targets.get(layer, ()))
            for hop in onwards.get(layer, ()):
                if hop.target not in group:
                    column = algebra.plus(column, algebra.moved(columns[hop.target], hop))
            columns[layer] = column
        inner = [hop for layer in group for hop in onwards.get(layer, ()) if hop.target in group]
        if len(inner) == 1 and len(group) == 1 and abs(inner[0].lag) == 1 and inner[0].pairs is None:
            columns[group[0]] = algebra.running(columns[group[0]], inner[0])
        elif inner:
            algebra.stepwise(columns, inner, _order(group, inner))
    return columns


def sums_from(
    algebra: Algebra[Column], layers: Sequence[str], hops: Sequence[Hop], num_steps: int, sources: Times
) -> dict[str, Column]:
    """For every layer and time, the sum over all paths from the sources to there. Errors as `sums_to`."""
    return sums_to(algebra, layers, [hop.reversed() for hop in hops], num_steps, sources)


def _order(group: Sequence[str], inner: Sequence[Hop]) -> list[str]:
    """An order of evaluation within one step."""
    signs = {math.copysign(1, hop.lag) for hop in inner if hop.lag}
    if len(signs) > 1 or any(hop.pairs is not None for hop in inner):
        raise AnalysisError(
            "Layers feed back into each other both ways in time, or at single times",
            got=", ".join(group),
            expected="feedback by a fixed number of steps in one direction",
            do="count on the unrolled grid instead: lsc_graph.paths",
        )
    same_step = [hop for hop in inner if hop.lag == 0]
    groups = groups_of(group, same_step)
    circle = next((found for found in groups if len(found) > 1), ())
    if circle or any(hop.source == hop.target for hop in same_step):
        raise AnalysisError("Layers depend on each other within one step", got=", ".join(circle or group))
    return [layer for found in reversed(groups) for layer in found]


def _span(hop: Hop, num_steps: int) -> tuple[slice, slice]:
    """Times of the source and of the target between which a hop leads."""
    shift = hop.lag
    source = slice(max(0, -shift), max(0, min(num_steps, num_steps - shift)))
    target = slice(max(0, shift), max(0, min(num_steps, num_steps + shift)))
    return source, target


def _backwards(hop: Hop, num_steps: int) -> range:
    """All times, those that a hop leads to before those that it comes from."""
    return range(num_steps - 1, -1, -1) if hop.lag >= 0 else range(num_steps)


class Exact:
    """Counts as integers of any size."""

    def start(self, num_steps: int, times: Iterable[int]) -> list[int]:
        column = [0] * num_steps
        for time in set(times):
            column[time] = 1
        return column

    def moved(self, column: list[int], hop: Hop) -> list[int]:
        size = len(column)
        result = [0] * size
        if hop.pairs is None:
            source, target = _span(hop, size)
            result[source] = column[target]
        for source_time, target_time in hop.pairs or ():
            result[source_time] += column[target_time]
        return result

    def plus(self, a: list[int], b: list[int]) -> list[int]:
        return [x + y for x, y in zip(a, b, strict=True)]

    def running(self, column: list[int], hop: Hop) -> list[int]:
        if hop.lag < 0:
            return list(accumulate(column))
        result = list(accumulate(reversed(column)))
        result.reverse()
        return result

    def stepwise(self, columns: dict[str, list[int]], hops: Sequence[Hop], order: Sequence[str]) -> None:
        onwards, size = outgoing(hops), len(columns[order[0]])
        way = next((hop for hop in hops if hop.lag), hops[0])
        for time in _backwards(way, size):
            for layer in order:
                ways = [(hop.target, time + hop.lag) for hop in onwards.get(layer, ())]
                columns[layer][time] += sum(columns[head][at] for head, at in ways if 0 <= at < size)


LogColumn = NDArray[np.float64]


class Log10:
    """Sums of products of weights, as log10; -inf is 0.

    Args:
        log10_weight: of each hop; counts where it is None.
    """

    def __init__(self, log10_weight: Weights | None = None) -> None:
        self.log10_weight = log10_weight or (lambda hop: 0.0)

    def start(self, num_steps: int, times: Iterable[int]) -> LogColumn:
        column = np.full(num_steps, -np.inf)
        column[list(times)] = 0.0
        return column

    def moved(self, column: LogColumn, hop: Hop) -> LogColumn:
        result = np.full(column.shape, -np.inf)
        if hop.pairs is None:
            source, target = _span(hop, len(column))
            result[source] = column[target]
        elif hop.pairs:
            at, heads = np.array(hop.pairs).T
            np.logaddexp.at(result, at, column[heads] * math.log(10))
            result /= math.log(10)
        return result + self.log10_weight(hop)

    def plus(self, a: LogColumn, b: LogColumn) -> LogColumn:
        return np.logaddexp(a * math.log(10), b * math.log(10)) / math.log(10)

    def running(self, column: LogColumn, hop: Hop) -> LogColumn:
        weight = self.log10_weight(hop)
        if not math.isfinite(weight):
            return column
        # x[t] = y[t] + w x[t + 1]: a plain running sum of x[t] w^t.
        tilt = np.arange(len(column)) * weight * hop.lag
        way = slice(None, None, -1 if hop.lag > 0 else 1)
        tilted = np.logaddexp.accumulate(((column + tilt) * math.log(10))[way])[way] / math.log(10)
        return np.asarray(tilted - tilt)

    def stepwise(self, columns: dict[str, LogColumn], hops: Sequence[Hop], order: Sequence[str]) -> None:
        onwards, size = outgoing(hops), len(columns[order[0]])
        way = next((hop for hop in hops if hop.lag), hops[0])
        known = {hop: self.log10_weight(hop) * math.log(10) for hop in hops}
        logs = {layer: (columns[layer] * math.log(10)).tolist() for layer in order}
        for time in _backwards(way, size):
            for layer in order:
                for hop in onwards.get(layer, ()):
                    if 0 <= time + hop.lag < size:
                        ahead = known[hop] + logs[hop.target][time + hop.lag]
                        logs[layer][time] = _log_add(logs[layer][time], ahead)
        columns.update({layer: np.array(logs[layer]) / math.log(10) for layer in order})


def _log_add(a: float, b: float) -> float:
    top, rest = max(a, b), min(a, b)
    return top if rest == -math.inf else top + math.log1p(math.exp(rest - top))
