"""The transfer matrix of a time-periodic cell graph: paths between any two times without an unrolled grid.

If every hop goes the same way in time, the paths that take dt steps are counted by a power of one fixed
matrix (theory section 2). Exact counts read it off the generating function P(z) / det(I - A(z)); sums of
weighted paths and rates take the matrix itself, in logarithms, where positive numbers add without loss.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lsc_graph.counting.hops import Hop, Weights, between, direction, groups_of, hops_of, outgoing
from lsc_graph.counting.series import Polynomial, coefficient, determinant, product
from lsc_graph.errors import AnalysisError, UsageError
from lsc_graph.layers.cells import CellGraph

LogMatrix = NDArray[np.float64]


@dataclass(frozen=True)
class PathSeries:
    """Numbers of paths by dt: the first ones, and the generating function numerator / denominator of all."""

    first: tuple[int, ...]
    numerator: tuple[int, ...]
    denominator: tuple[int, ...]

    def count(self, dt: int) -> int:
        """The number of paths that take dt steps."""
        if dt < len(self.first):
            return self.first[dt] if dt >= 0 else 0
        return coefficient(self.numerator, self.denominator, dt)

    @property
    def is_polynomial(self) -> bool:
        """Whether counts grow as a power of dt: every pole of the generating function is at z = 1."""
        size = len(self.denominator) - 1
        return list(self.denominator) == [(-1) ** k * math.comb(size, k) for k in range(size + 1)]


class TransferMatrix:
    """Counts and sums of the paths between the layers of a time-periodic cell graph, dt steps apart.

    A reverse stack is counted in its own direction: dt is the distance between two times, whichever is first.

    Args:
        hops: all edges, as `hops_of` gives them.
        layers: ids of all layers.

    Raises:
        AnalysisError: the hops go both ways in time, or are listed time by time.
    """

    def __init__(self, hops: Iterable[Hop], layers: Sequence[str]) -> None:
        self.hops, self.layers = tuple(hops), tuple(layers)
        way = direction(self.hops)
        if way is None:
            raise AnalysisError(
                "The cell graph does not repeat itself from step to step in one direction",
                got="edges that go both ways in time, or that are known for single times only",
                expected="edges that all go forwards, or all backwards, by a fixed number of steps",
                do="count by columns instead: lsc_graph.counting.columns",
            )
        _check_within_a_step(self.layers, self.hops)
        self.direction = way

    @classmethod
    def of(cls, cells: CellGraph) -> TransferMatrix:
        """The transfer matrix of a cell graph. Raises AnalysisError as the class does."""
        return cls(hops_of(cells), [layer.id for layer in cells.layers])

    def num_paths(self, sources: Collection[str], targets: Collection[str], dt: int) -> int:
        """The number of paths, exactly, from `sources` at one time to `targets` dt steps later.

        Raises:
            UsageError: there is no such layer.
        """
        return self.series(sources, targets).count(dt)

    def series(self, sources: Collection[str], targets: Collection[str]) -> PathSeries:
        """The number of paths as a function of dt, for several of them.

        Raises:
            UsageError: there is no such layer.
        """
        self._check([*sources, *targets])
        hops = between(self.hops, sources, targets)
        layers = {*sources, *targets, *(layer for hop in hops for layer in (hop.source, hop.target))}
        denominator = [1]
        for group in groups_of(layers, hops):
            denominator = product(denominator, _denominator(group, hops))
        degree = len(layers) * max((abs(hop.lag) for hop in hops), default=0)
        first = _first_counts(hops, layers, set(sources), set(targets), degree + 1)
        numerator = product(first, denominator)[: degree + 1]
        return PathSeries(tuple(first), tuple(numerator), tuple(denominator))

    def log10_path_sum(
        self, sources: Collection[str], targets: Collection[str], dt: int, log10_weight: Weights
    ) -> float:
        """log10 of the sum over these paths of the product of their hops' weights; -inf for no path.

        Raises:
            UsageError: there is no such layer.
        """
        self._check([*sources, *targets])
        if dt < 0:
            return -math.inf
        steps = _Steps(self.layers, between(self.hops, sources, targets), log10_weight)
        chosen = [steps.index[source] for source in set(sources)]
        return float(_log_sum(steps.vector(targets, dt)[chosen])) / math.log(10)

    def growth(self, log10_weight: Weights | None = None) -> tuple[float, int]:
        """The limit of growth with time at fixed depth: (log10 factor per step, degree).

        Path sums between the layers that are farthest apart grow like factor^dt dt^degree: the factor is the
        spectral radius of the transfer matrix, and the degree one less than the number of
        groups of layers with this radius along the way with most of them. -inf where no path goes on.
        """
        weight = log10_weight or (lambda hop: 0.0)
        groups = groups_of(self.layers, self.hops)
        rates = {group: _group_rate(group, self.hops, weight) for group in groups}
        top = max(rates.values(), default=-math.inf)
        if top == -math.inf:
            return top, 0
        owner = {layer: group for group in groups for layer in group}
        most: dict[tuple[str, ...], int] = {}
        onwards = outgoing(self.hops)
        for group in reversed(groups):
            above = {owner[h.target] for layer in group for h in onwards.get(layer, ())} - {group}
            is_top = math.isclose(rates[group], top, rel_tol=1e-9, abs_tol=1e-9)
            most[group] = is_top + max((most[other] for other in above), default=0)
        return top, max(most.values()) - 1

    def _check(self, layers: Iterable[str]) -> None:
        unknown = sorted(set(layers) - set(self.layers))
        if unknown:
            raise UsageError(
                "There is no such layer",
                got=", ".join(unknown),
                expected="one of " + ", ".join(self.layers[:20]) + ", ..." * (len(self.layers) > 20),
            )


def _check_within_a_step(layers: Sequence[str], hops: Iterable[Hop]) -> None:
    same_step = [hop for hop in hops if hop.lag == 0]
    circles = [group for group in groups_of(layers, same_step) if len(group) > 1]
    circles += [(hop.source,) for hop in same_step if hop.source == hop.target]
    if circles:
        raise AnalysisError(
            "Layers depend on each other within one step",
            got=", ".join(circles[0]),
            expected="states that depend on other layers at the same or an earlier step only",
            do="please report this model",
        )


def _group_rate(group: Sequence[str], hops: Iterable[Hop], weight: Weights) -> float:
    inner = [hop for hop in hops if hop.source in group and hop.target in group]
    if not inner:
        return -math.inf
    if len(group) == 1 and len(inner) == 1:
        return weight(inner[0]) / abs(inner[0].lag)
    steps = _Steps(tuple(group), tuple(inner), weight)
    matrix, shift = steps.matrix, float(np.max(steps.matrix))
    if shift == -math.inf:
        return -math.inf
    return (math.log(float(max(abs(np.linalg.eigvals(np.exp(matrix - shift)))))) + shift) / math.log(10)


def _first_counts(
    hops: Sequence[Hop], layers: Collection[str], sources: set[str], targets: set[str], number: int
) -> list[int]:
    """The counts for 0, 1, ... steps, one step after the other."""
    onwards = outgoing(hops)
    same_step = [hop for hop in hops if hop.lag == 0]
    order = [layer for group in reversed(groups_of(layers, same_step)) for layer in group]
    columns: list[dict[str, int]] = []
    for dt in range(number):
        column: dict[str, int] = {}
        columns.append(column)
        for layer in order:
            ways = [hop for hop in onwards.get(layer, ()) if abs(hop.lag) <= dt]
            ahead = sum(columns[dt - abs(hop.lag)][hop.target] for hop in ways)
            column[layer] = ahead + (dt == 0 and layer in targets)
    return [sum(column[source] for source in sources) for column in columns]


def _denominator(group: Sequence[str], hops: Iterable[Hop]) -> Polynomial:
    """det(I - A(z)) of layers that feed back into each other."""
    inner = [hop for hop in hops if hop.source in group and hop.target in group]
    if len(group) == 1 and len(inner) <= 1:
        return [1, *[0] * (abs(inner[0].lag) - 1), -1] if inner else [1]
    return determinant(_integer_matrix(group, inner))


def _integer_matrix(group: Sequence[str], hops: Sequence[Hop]) -> list[list[int]]:
    """The matrix of `_Steps` with every weight 1, in exact integers."""
    depth, size = max(abs(hop.lag) for hop in hops), len(group)
    index = {layer: position for position, layer in enumerate(group)}
    onwards = outgoing(hops)
    rows: dict[str, list[int]] = {}
    same_step = [hop for hop in hops if hop.lag == 0]
    for layer in (layer for found in reversed(groups_of(group, same_step)) for layer in found):
        row = [0] * (size * depth)
        for hop in onwards.get(layer, ()):
            if hop.lag:
                row[(abs(hop.lag) - 1) * size + index[hop.target]] += 1
            else:
                row = [a + b for a, b in zip(row, rows[hop.target], strict=True)]
        rows[layer] = row
    shifts = [[int(column == row) for column in range(size * depth)] for row in range(size * (depth - 1))]
    return [*(rows[layer] for layer in group), *shifts]


class _Steps:
    """The matrix M = (I - A_0)^-1 A_1 of one step, in logarithms; with longer lags, in block companion form.

    Column t of path sums, x(t) = (I - A_0)^-1 ([t = 0] e + sum_k A_k x(t - k)), is M^t (I - A_0)^-1 e.
    """

    def __init__(self, layers: Sequence[str], hops: Sequence[Hop], log10_weight: Weights) -> None:
        self.layers = layers
        self.index = {layer: position for position, layer in enumerate(layers)}
        self.depth = max([1, *(abs(hop.lag) for hop in hops)])
        self.lagged = np.full((self.depth + 1, len(layers), len(layers)), -np.inf)
        for hop in hops:
            place = abs(hop.lag), self.index[hop.source], self.index[hop.target]
            self.lagged[place] = np.logaddexp(self.lagged[place], log10_weight(hop) * math.log(10))

    @cached_property
    def closure(self) -> LogMatrix:
        """(I - A_0)^-1 = (I + A_0) (I + A_0^2) (I + A_0^4) ..., which ends, since A_0 is nilpotent."""
        identity = _log_identity(len(self.layers))
        power: LogMatrix = self.lagged[0]
        total: LogMatrix = np.logaddexp(identity, power)
        while np.isfinite(power := _log_product(power, power)).any():
            total = _log_product(total, np.logaddexp(identity, power))
        return total

    @cached_property
    def matrix(self) -> LogMatrix:
        size = len(self.layers)
        whole = np.full((size * self.depth, size * self.depth), -np.inf)
        for lag in range(1, self.depth + 1):
            block = _log_product(self.closure, self.lagged[lag])
            whole[:size, (lag - 1) * size : lag * size] = block
            if lag < self.depth:
                rows = slice(lag * size, (lag + 1) * size)
                whole[rows, (lag - 1) * size : lag * size] = _log_identity(size)
        return whole

    def vector(self, targets: Collection[str], dt: int) -> LogMatrix:
        """Path sums from every layer to the targets dt steps later."""
        size = len(self.layers)
        start = np.full(size, -np.inf)
        start[[self.index[target] for target in set(targets)]] = 0.0
        column = np.full(size * self.depth, -np.inf)
        column[:size] = _log_sum(self.closure + start)
        if dt:
            power = self.matrix
            while True:
                if dt % 2:
                    column = _log_sum(power + column)
                dt //= 2
                if not dt:
                    break
                power = _log_product(power, power)
        return column[:size]


def _log_identity(size: int) -> LogMatrix:
    return np.where(np.eye(size, dtype=bool), 0.0, -np.inf)


def _log_sum(values: LogMatrix) -> LogMatrix:
    """log of the sum of exp along the last axis."""
    top = np.max(values, axis=-1, initial=-np.inf)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(safe + np.log(np.sum(np.exp(values - safe[..., None]), axis=-1)))


def _log_product(a: LogMatrix, b: LogMatrix) -> LogMatrix:
    """The product of two matrices given by their logarithms, row by row to bound the memory."""
    columns = np.ascontiguousarray(b.T)
    return np.stack([_log_sum(columns + row) for row in a])
