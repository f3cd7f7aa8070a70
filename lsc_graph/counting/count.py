"""The number of gradient paths between any states of a cell graph, by the fastest exact way that applies."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from lsc_graph.cells import CellGraph
from lsc_graph.counting import two_sided
from lsc_graph.counting.columns import Exact, Log10, sums_from, sums_to
from lsc_graph.counting.hops import Hop, Weights, between, direction, hops_of
from lsc_graph.counting.transfer import PathSeries, TransferMatrix
from lsc_graph.errors import AnalysisError, LimitExceededError, UsageError
from lsc_graph.paths import log10_of_count, log10_sum, num_gradient_paths
from lsc_graph.unroll import MAX_GRID_NODES, GridNode, depths, unroll

MAX_COLUMN_CELLS = 20_000_000
"""Cap on layers x steps that are kept column by column: about 1 GB of exact integers."""
MANY_DIGITS = 1_000_000
"""With exponential growth over more steps than this, only log10 is immediate; exact digits must be asked
for.
"""


MOST_MOVED = 64
"""Ends are not replaced by more others than this."""


class Method(StrEnum):
    """How a count was found. All are exact; the words are for people."""

    TRANSFER = "power of the transfer matrix"
    POLYNOMIAL = "polynomial in the number of steps: layers run both ways in time"
    COLUMNS = "column by column: layers run both ways in time, or edges are known at single times"
    GRID = "on the unrolled grid: feedback both ways in time"


@dataclass(frozen=True)
class Ends:
    """States of one layer: at one time (negative: counted from the end), or at every time (None)."""

    layer: str
    time: int | None

    def times(self, num_steps: int) -> range:
        """The times meant. Raises UsageError if there is no such time."""
        if self.time is None:
            return range(num_steps)
        time = self.time + num_steps if self.time < 0 else self.time
        if not 0 <= time < num_steps:
            raise UsageError(
                "There is no such time",
                where=self.layer,
                got=str(self.time),
                expected=f"0 to {num_steps - 1}, or -{num_steps} to -1 from the end",
            )
        return range(time, time + 1)

    def normal(self, num_steps: int) -> Ends:
        """The same states, with the last time always as -1."""
        if self.time is None:
            return self
        (time,) = self.times(num_steps)
        return Ends(self.layer, -1 if 0 < time == num_steps - 1 else time)


@dataclass(frozen=True)
class PathCount:
    """A number of paths. `exact` is None only where it was not asked for and would take long."""

    exact: int | None
    log10: float | None
    method: Method


def first_ends(cells: CellGraph) -> tuple[Ends, ...]:
    """`first_states` at any number of steps."""
    return _extreme(cells, min, forward=0)


def last_ends(cells: CellGraph) -> tuple[Ends, ...]:
    """`last_states` at any number of steps."""
    return _extreme(cells, max, forward=-1)


def _extreme(cells: CellGraph, best: Callable[[Collection[int]], int], forward: int) -> tuple[Ends, ...]:
    depth = depths(cells)
    wanted = best(depth.values() or [0])
    return tuple(
        Ends(layer.id, -1 - forward if layer.time_step < 0 else forward)
        for layer in cells.layers
        if depth[layer.id] == wanted
    )


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
            self.targets = _moved(self.targets, self.sources, every, num_steps, ahead=False)
            self.sources = _moved(self.sources, self.targets, every, num_steps, ahead=True)
        self.hops = between(every, (e.layer for e in self.sources), (e.layer for e in self.targets))
        self.starts, self.stops = self._by_layer(self.sources), self._by_layer(self.targets)

    def _by_layer(self, ends: Iterable[Ends]) -> dict[str, set[int]]:
        found: dict[str, set[int]] = {}
        for end in ends:
            found.setdefault(end.layer, set()).update(end.times(self.num_steps))
        return found

    def by_transfer(self, exact: bool) -> PathCount:
        terms = list(self._terms())
        size = max((dt for *_, dt in terms), default=0)
        if not exact and size > MANY_DIGITS and not all(s.is_polynomial for s, *_ in terms):
            log = self.log10_by_transfer(lambda hop: 0.0)
            return PathCount(None, log if log > -math.inf else None, Method.TRANSFER)
        return _found(sum(series.count(dt) for series, _, _, dt in terms), Method.TRANSFER)

    def log10_by_transfer(self, log10_weight: Weights) -> float:
        sums = []
        for matrix, sources, targets, dt in self._grouped():
            sums.append(matrix.log10_path_sum(sources, targets, dt, _only(log10_weight)))
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
        starts, above = _at_single_times(self.sources, self.num_steps, way, opens=True)
        stops, below = _at_single_times(self.targets, self.num_steps, way, opens=False)
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


def _moved(
    ends: tuple[Ends, ...], others: tuple[Ends, ...], hops: Sequence[Hop], num_steps: int, *, ahead: bool
) -> tuple[Ends, ...]:
    """Ends that hang on a few listed edges only, such as a final state, moved to where these lead.

    That changes no count, but leaves edges that are the same at every step. Nothing moves where a path could
    be of length 0, or where two paths would become one.
    """
    found: list[Ends] = []
    for end in ends:
        ways = [hop for hop in hops if (hop.source if ahead else hop.target) == end.layer]
        listed = [(hop, hop.pairs) for hop in ways if hop.pairs is not None]
        if not ways or len(listed) < len(ways) or end.layer in {other.layer for other in others}:
            found.append(end)
            continue
        for hop, pairs in listed:
            near, far = (0, 1) if ahead else (1, 0)
            times = [pair[far] for pair in pairs if pair[near] in end.times(num_steps)]
            found += [Ends(hop.target if ahead else hop.source, time).normal(num_steps) for time in times]
    is_safe = len(set(found)) == len(found) <= len(ends) + MOST_MOVED
    safe_layers = {e.layer for e in found if e.time is None}.isdisjoint(
        e.layer for e in found if e.time is not None
    )
    return tuple(found) if found and is_safe and safe_layers else ends


def check_columns(num_layers: int, num_steps: int) -> None:
    """Raise LimitExceededError if a table of all cells would be too large."""
    if num_layers * num_steps > MAX_COLUMN_CELLS:
        raise LimitExceededError(
            "The grid is too large to be counted column by column",
            got=f"{num_layers} layers x {num_steps} steps",
            expected=f"at most {MAX_COLUMN_CELLS:,} cells",
            do="ask for fewer steps",
        )


def at_steps(cells: CellGraph, num_steps: int) -> CellGraph:
    """The cell graph over another number of steps.

    Raises:
        UsageError: fewer than one step, or edges are known for the cell graph's own number of steps only.
    """
    listed = [edge for edge in cells.depth_edges if edge.time_pairs is not None]
    if num_steps < 1:
        raise UsageError("The number of steps must be at least 1", got=str(num_steps))
    if num_steps != cells.num_steps and listed:
        raise UsageError(
            "How the layers are connected over time is known for one number of steps only",
            where=f"{listed[0].source} -> {listed[0].target}",
            got=f"{num_steps} steps",
            expected=f"{cells.num_steps} steps",
        )
    return CellGraph(cells.layers, cells.depth_edges, num_steps)


def _only(log10_weight: Weights) -> Weights:
    """Weights of the model's own hops; those that merely add up are 1."""
    return lambda hop: 0.0 if hop.source[:1] == _SUM or hop.target[:1] == _SUM else log10_weight(hop)


_SUM = "\0"


def _at_single_times(
    ends: Iterable[Ends], num_steps: int, way: int, *, opens: bool
) -> tuple[dict[int, frozenset[str]], tuple[Hop, ...]]:
    """Layers by time, and further hops: what is meant at every time is a layer that adds up over time.

    Args:
        ends: where paths start (`opens`) or end.
        num_steps: T.
        way: the direction of time.
        opens: whether paths start there.
    """
    found: dict[int, set[str]] = {}
    hops: list[Hop] = []
    every = {end.layer for end in ends if end.time is None}
    name = _SUM + ("from" if opens else "to")
    if every:
        hops = [Hop(name, name, way, "time")]
        hops += [Hop(name, s, 0, "depth") if opens else Hop(s, name, 0, "depth") for s in sorted(every)]
        found[0 if opens == (way > 0) else num_steps - 1] = {name}
    for end in ends:
        if end.layer not in every:
            for time in end.times(num_steps):
                found.setdefault(time, set()).add(end.layer)
    return {time: frozenset(layers) for time, layers in found.items()}, tuple(hops)


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
