"""The tables of a path report: counts of single cells and inputs, and weights of edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lsc_graph.counting.count import (
    MANY_STEPS,
    Method,
    PathCount,
    count_paths,
    paths_from_each_time,
    paths_through,
)
from lsc_graph.counting.ends import Ends
from lsc_graph.counting.hops import Hop, direction, feeds_back, hops_of
from lsc_graph.counting.model_cells import states_only
from lsc_graph.counting.series import digits
from lsc_graph.counting.stretch import stretched
from lsc_graph.counting.targets import Targets, balanced_targets, unbalanced_targets
from lsc_graph.errors import AnalysisError, UsageError
from lsc_graph.grid.paths import log10_of_count
from lsc_graph.layers.cells import CellGraph
from lsc_graph.path_results import CellCount, Count, EdgeTarget

MAX_SHOWN_DIGITS = 1_000
MAX_TABLE_CELLS = 1_000_000
"""What needs a count for every cell is computed for at most this many layers x steps."""
MAX_DISTANT_LAYERS = 20
"""On larger grids, single cells are counted one by one if there are at most this many layers."""
MAX_LISTED_CELLS = 2_000
"""Of larger tables, only some times are listed."""


def edge_targets(cells: CellGraph, notes: list[str]) -> tuple[EdgeTarget, ...]:
    flowing = _sequences_only(cells)
    balanced = [balanced_targets(flowing, p) for p in (1.0, 2.0)]
    unbalanced = _unbalanced(flowing, notes)
    return tuple(
        EdgeTarget(
            hop.source, hop.target, hop.lag, balanced[0][hop], balanced[1][hop], *_both(unbalanced, hop)
        )
        for hop in balanced[0]
    )


def _sequences_only(cells: CellGraph) -> CellGraph:
    """Without the inputs and outputs that are read or written at single times, where there are others.

    An edge that a layer has at one step of many says nothing about its weights at the others.
    """
    kept = {layer.id for layer in cells.layers if layer.role == "state"}
    for role in ("input", "output"):
        every = [layer.id for layer in cells.layers if layer.role == role]
        ends = [(e.source if role == "input" else e.target, e.time_pairs) for e in cells.depth_edges]
        sequences = {name for name, pairs in ends if pairs is None}
        kept |= {name for name in every if name in sequences} or set(every)
    edges = tuple(edge for edge in cells.depth_edges if {edge.source, edge.target} <= kept)
    return CellGraph(tuple(x for x in cells.layers if x.id in kept), edges, cells.num_steps)


def _unbalanced(cells: CellGraph, notes: list[str]) -> list[Targets]:
    """For both laws, from the first input to the last output; from all to all where time goes both ways."""
    hops = hops_of(cells)
    if _has_many_digits(cells):
        notes.append("Unbalanced targets are left out: the number of paths has too many digits")
        return []
    way = direction(hops)
    first, last = {None: (None, None), 1: (0, -1), -1: (-1, 0)}[way]
    starts = [Ends(layer.id, first) for layer in cells.layers if layer.role == "input"]
    stops = [Ends(layer.id, last) for layer in cells.layers if layer.role == "output"]
    try:
        wide = stretched(cells, cells.num_steps + 1)
        return [
            unbalanced_targets(wide, cells.num_steps, p, sources=starts, targets=stops) for p in (1.0, 2.0)
        ]
    except (AnalysisError, UsageError) as error:
        notes.append(f"Unbalanced targets are left out: {error.what}")
        return []


def _key(hop: Hop) -> tuple[str, str, int, bool]:
    return hop.source, hop.target, hop.lag, hop.pairs is None


def _both(found: Sequence[Targets], hop: Hop) -> tuple[float | None, float | None]:
    if not found:
        return None, None
    coherent, incoherent = ({_key(other): w for other, w in weights.items()}[_key(hop)] for weights in found)
    return coherent, incoherent


def from_inputs(
    cells: CellGraph, stops: Sequence[Ends], exact: bool, notes: list[str]
) -> tuple[CellCount, ...]:
    names = [layer.id for layer in cells.layers if layer.role == "input"]
    if _has_table(cells):
        columns = paths_from_each_time(cells, cells.num_steps, names, stops)
        return _listed(columns, cells.num_steps, exact, skips_zero=True)
    if direction(hops_of(states_only(cells))) is None:
        notes.append(
            "Counts from single inputs are left out: the grid is too large for a count of every cell"
        )
        return ()
    found = []
    for name in names:
        for time in _times_of(name, cells):
            count = count_paths(cells, cells.num_steps, [Ends(name, time)], stops, exact=exact)
            if count.log10 is not None:
                found.append(CellCount(name, time, shown_count(count, exact)))
    return tuple(found)


def _times_of(name: str, cells: CellGraph) -> list[int]:
    """Some of the times at which an input is read."""
    pairs = [edge.time_pairs for edge in cells.depth_edges if edge.source == name]
    if any(listed is None for listed in pairs):
        return _sampled(cells.num_steps)
    return sorted({time for listed in pairs for time, _ in listed or ()})[:MAX_LISTED_CELLS]


def through_cells(
    cells: CellGraph, starts: Sequence[Ends], stops: Sequence[Ends], exact: bool, notes: list[str]
) -> tuple[CellCount, ...]:
    """How many paths pass through each cell: through all of them, or at some times of a large grid."""
    size, layers = cells.num_steps, [layer.id for layer in cells.layers if layer.role == "state"]
    if _has_table(cells):
        columns = paths_through(cells, size, starts, stops)
        return _listed({name: columns[name] for name in layers}, size, exact, skips_zero=False)
    if direction(hops_of(states_only(cells))) is None or len(layers) > MAX_DISTANT_LAYERS:
        notes.append(
            "Counts through single cells are left out: the grid is too large for a count of every cell"
        )
        return ()
    found = []
    for name in layers:
        for time in _sampled(size)[:: max(1, len(layers) // 4)]:
            here = [Ends(name, time)]
            since = count_paths(cells, size, starts, here, exact=exact)
            to = count_paths(cells, size, here, stops, exact=exact)
            found.append(CellCount(name, time, shown_count(_times(since, to), exact)))
    return tuple(found)


def _has_table(cells: CellGraph) -> bool:
    """Whether a count for every cell fits into memory."""
    return len(cells.layers) * cells.num_steps <= MAX_TABLE_CELLS and not _has_many_digits(cells)


def _has_many_digits(cells: CellGraph) -> bool:
    return cells.num_steps > MANY_STEPS and feeds_back(hops_of(cells))


def _times(a: PathCount, b: PathCount) -> PathCount:
    """The product of two counts, of which only the logarithms may be known."""
    if a.exact is not None and b.exact is not None:
        return PathCount(a.exact * b.exact, log10_of_count(a.exact * b.exact), a.method)
    return PathCount(None, None if a.log10 is None or b.log10 is None else a.log10 + b.log10, a.method)


def _listed(
    columns: Mapping[str, Sequence[int]], num_steps: int, exact: bool, *, skips_zero: bool
) -> tuple[CellCount, ...]:
    times = range(num_steps) if len(columns) * num_steps <= MAX_LISTED_CELLS else _sampled(num_steps)
    return tuple(
        CellCount(
            name, t, shown_count(PathCount(column[t], log10_of_count(column[t]), Method.COLUMNS), exact)
        )
        for name, column in columns.items()
        for t in times
        if column[t] or not skips_zero
    )


def _sampled(num_steps: int) -> list[int]:
    """Times at growing distances from both ends."""
    distances = [0, 1, 2, *(round(10 ** (k / 2)) for k in range(1, 40))]
    near = {d for d in distances if d < num_steps}
    return sorted(near | {num_steps - 1 - d for d in near} | {num_steps // 2})


def shown_count(found: PathCount, exact: bool) -> Count:
    shown = found.exact is not None and (exact or (found.log10 or 0.0) < MAX_SHOWN_DIGITS)
    return Count(digits(found.exact) if shown and found.exact is not None else None, found.log10)
