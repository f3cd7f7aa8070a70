"""The number of gradient paths between any states of a cell graph, by the fastest exact way that applies."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from lsc_graph.counting import two_sided
from lsc_graph.counting.columns import Exact, Log10, sums_from, sums_to
from lsc_graph.counting.ends import Ends, at_single_times, at_steps, moved, only_of_model
from lsc_graph.counting.hops import Hop, Weights, between, direction, feeds_back, hops_of
from lsc_graph.counting.transfer import PathSeries, TransferMatrix
from lsc_graph.errors import AnalysisError, LimitExceededError, UsageError
from lsc_graph.grid.paths import log10_of_count, log10_sum, num_gradient_paths
from lsc_graph.grid.unroll import MAX_GRID_NODES, GridNode, unroll
from lsc_graph.layers.cells import CellGraph

MAX_COLUMN_CELLS = 20_000_000
"""Cap on layers x steps that are kept column by column: about 1 GB of exact integers."""
MANY_STEPS = 5_000
"""Counts that grow exponentially over more steps than this have their digits computed only when asked for."""


class Method(StrEnum):
    """How a count was found. All are exact; the words are for people."""

    TRANSFER = "power of the transfer matrix"
    POLYNOMIAL = "polynomial in the number of steps: layers run both ways in time"
    COLUMNS = "column by column: layers run both ways in time, or edges are known at single times"
    GRID = "on the unrolled grid: feedback both ways in time"


@dataclass(frozen=True)
class PathCount:
    """A number of paths. `exact` is None only where it was not asked for and would take long."""

    exact: int | None
    log10: float | None
    method: Method


def count_paths(
    cells: CellGraph,
    num_steps: int,
    sources: Sequence[Ends],
    targets: Sequence[Ends],
    *,
    exact: bool = True,
) -> PathCount:
    """The number of paths from any of `sources` to any of `targets` on the grid of `num_steps` steps.

    Args:
        cells: the cell graph; edges at listed times fix the number of steps.
        num_steps: T.
        sources, targets: where paths start and end. A state in both counts one path, of length 0.
        exact: whether to spend time on numbers with very many digits; log10 is found in any case.

    Raises:
        UsageError: no such layer, time or number of steps.
        LimitExceededError: neither way is possible at this size.
    """
    problem = _Problem(cells, num_steps, sources, targets, moves=True)
    if direction(problem.hops) is not None:
        return problem.by_transfer(exact)
    if problem.is_two_sided:
        return _found(problem.by_polynomial(), Method.POLYNOMIAL)
    try:
        return _found(problem.by_columns(), Method.COLUMNS)
    except AnalysisError as error:
        if isinstance(error, LimitExceededError) or len(problem.layers) * num_steps > MAX_GRID_NODES:
            raise
    return _found(problem.on_grid(), Method.GRID)


def log10_path_sum(
    cells: CellGraph,
    num_steps: int,
    sources: Sequence[Ends],
    targets: Sequence[Ends],
    log10_weight: Weights,
) -> float:
    """log10 of the sum over these paths of the product of their edges' weights; -inf for no path.

    With radii as weights this is the paper's coherent bound; with squared gains, half of it is the
    incoherent law. Arguments and errors are those of `count_paths`.
    """
    problem = _Problem(cells, num_steps, sources, targets)
    if direction(problem.hops) is not None:
        return problem.log10_by_transfer(log10_weight)
    return problem.log10_by_columns(log10_weight)


def _found(count: int, method: Method) -> PathCount:
    return PathCount(count, log10_of_count(count), method)


class _Problem:
    """Checked arguments, and the ways to count; with `moves`, ends are moved where that changes no count."""

    def __init__(
        self,
        cells: CellGraph,
        num_steps: int,
        sources: Sequence[Ends],
        targets: Sequence[Ends],
        *,
        moves: bool = False,
    ) -> None:
        self.cells, self.num_steps = at_steps(cells, num_steps), num_steps
        self.layers = [layer.id for layer in cells.layers]
        self.sources, self.targets = (
            tuple(dict.fromkeys(end.normal(num_steps) for end in ends)) for ends in (sources, targets)
        )
        for end in (*self.sources, *self.targets):
            if end.layer not in self.layers:
                raise UsageError(
                    "There is no such layer", got=end.layer, expected="one of " + ", ".join(self.layers)
                )
        every = hops_of(self.cells)
        if moves:
            self.targets = moved(self.targets, self.sources, every, num_steps, ahead=False)
            self.sources = moved(self.sources, self.targets, every, num_steps, ahead=True)
        self.hops = between(every, (e.layer for e in self.sources), (e.layer for e in self.targets))
        self.starts, self.stops = self._by_layer(self.sources), self._by_layer(self.targets)

    def _by_layer(self, ends: Iterable[Ends]) -> dict[str, set[int]]:
        found: dict[str, set[int]] = {}
        for end in ends:
            found.setdefault(end.layer, set()).update(end.times(self.num_steps))
        return found

    def by_transfer(self, exact: bool) -> PathCount:
        if not exact and self.num_steps > MANY_STEPS and feeds_back(self.hops):
            log = self.log10_by_transfer(lambda hop: 0.0)
            return PathCount(None, log if log > -math.inf else None, Method.TRANSFER)
        return _found(sum(series.count(dt) for series, _, _, dt in self._terms()), Method.TRANSFER)

    def log10_by_transfer(self, log10_weight: Weights) -> float:
        sums = []
        for matrix, sources, targets, dt in self._grouped():
            sums.append(matrix.log10_path_sum(sources, targets, dt, only_of_model(log10_weight)))
        return log10_sum(sums)

    def _terms(self) -> Iterable[tuple[PathSeries, frozenset[str], frozenset[str], int]]:
        known: dict[tuple[frozenset[str], frozenset[str]], PathSeries] = {}
        for matrix, sources, targets, dt in self._grouped():
            if (sources, targets) not in known:
                known[sources, targets] = matrix.series(sources, targets)
            yield known[sources, targets], sources, targets, dt

    def _grouped(self) -> Iterable[tuple[TransferMatrix, frozenset[str], frozenset[str], int]]:
        """Sources at one time and targets at one time; every time of a layer is summed up by a layer of its
        own.
        """
        way = direction(self.hops) or 1
        starts, above = at_single_times(self.sources, self.num_steps, way, opens=True)
        stops, below = at_single_times(self.targets, self.num_steps, way, opens=False)
        extra = [hop.source for hop in (*above, *below) if hop.source == hop.target]
        matrix = TransferMatrix((*self.hops, *above, *below), [*self.layers, *extra])
        for source_time, sources in starts.items():
            for target_time, targets in stops.items():
                yield matrix, sources, targets, (target_time - source_time) * way

    @property
    def is_two_sided(self) -> bool:
        ends = (*self.sources, *self.targets)
        single = len({e.layer for e in self.sources}) == len(self.sources)
        single &= len({e.layer for e in self.targets}) == len(self.targets)
        return single and all(e.time in (0, -1, None) for e in ends) and two_sided.is_polynomial(self.hops)

    def by_polynomial(self) -> int:
        layers = sorted({e.layer for e in (*self.sources, *self.targets)} | _layers_of(self.hops))
        return two_sided.num_paths(
            layers,
            self.hops,
            self.num_steps,
            {end.layer: end.time for end in self.sources},
            {end.layer: end.time for end in self.targets},
        )

    def by_columns(self) -> int:
        self._check_columns()
        columns = sums_to(Exact(), self.layers, self.hops, self.num_steps, self.stops)
        return sum(columns[layer][time] for layer, times in self.starts.items() for time in times)

    def log10_by_columns(self, log10_weight: Weights) -> float:
        self._check_columns()
        columns = sums_to(Log10(log10_weight), self.layers, self.hops, self.num_steps, self.stops)
        return log10_sum(
            float(columns[layer][time]) for layer, times in self.starts.items() for time in times
        )

    def _check_columns(self) -> None:
        check_columns(len(self.layers), self.num_steps)

    def on_grid(self) -> int:
        grid = unroll(self.cells, self.num_steps)
        starts, stops = (
            [GridNode(layer, time) for layer, times in ends.items() for time in times]
            for ends in (self.starts, self.stops)
        )
        return num_gradient_paths(grid, starts, stops)


def check_columns(num_layers: int, num_steps: int) -> None:
    """Raise LimitExceededError if a table of all cells would be too large."""
    if num_layers * num_steps > MAX_COLUMN_CELLS:
        raise LimitExceededError(
            "The grid is too large to be counted column by column",
            got=f"{num_layers} layers x {num_steps} steps",
            expected=f"at most {MAX_COLUMN_CELLS:,} cells",
            do="ask for fewer steps",
        )


def _layers_of(hops: Iterable[Hop]) -> set[str]:
    return {layer for hop in hops for layer in (hop.source, hop.target)}


def paths_through(
    cells: CellGraph, num_steps: int, sources: Sequence[Ends], targets: Sequence[Ends]
) -> dict[str, list[int]]:
    """For every layer, by time: how many paths from `sources` to `targets` pass through this cell.

    Raises:
        UsageError, LimitExceededError: as `count_paths`.
        AnalysisError: feedback both ways in time.
    """
    problem = _Problem(cells, num_steps, sources, targets)
    check_columns(2 * len(problem.layers), num_steps)
    to = sums_to(Exact(), problem.layers, problem.hops, num_steps, problem.stops)
    since = sums_from(Exact(), problem.layers, problem.hops, num_steps, problem.starts)
    return {layer: [a * b for a, b in zip(to[layer], since[layer], strict=True)] for layer in problem.layers}


def paths_from_each_time(
    cells: CellGraph, num_steps: int, layers: Collection[str], targets: Sequence[Ends]
) -> dict[str, list[int]]:
    """For each of `layers` (of inputs, say), by time: how many paths lead from there to `targets`.

    Errors are those of `paths_through`.
    """
    problem = _Problem(cells, num_steps, [Ends(layer, None) for layer in layers], targets)
    check_columns(len(problem.layers), num_steps)
    columns = sums_to(Exact(), problem.layers, problem.hops, num_steps, problem.stops)
    return {layer: columns[layer] for layer in layers}
