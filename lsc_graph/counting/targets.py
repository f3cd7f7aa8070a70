"""Edge weights for which no path sum exceeds 1, on any cell graph (theory section 4, past the paper).

If the p-th powers of the weights on the ways out of every state sum to at most 1, then the sum over all paths
of the p-th powers of their products is at most 1 between any two states: p = 1 is the coherent law (all paths
align, the paper's bound, arXiv 2308.12075), p = 2 the incoherent one (they add in quadrature).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from lsc_graph.counting.columns import Exact, sums_from, sums_to
from lsc_graph.counting.count import check_columns, count_paths
from lsc_graph.counting.ends import Ends, at_steps, first_ends, last_ends
from lsc_graph.counting.hops import Hop, direction, hops_of
from lsc_graph.errors import UsageError
from lsc_graph.layers.cells import CellGraph, DepthEdge

Targets = Mapping[Hop, float]
"""A weight for each edge of the cell graph."""
MANY_CELLS = 200_000
"""Beyond this many layers x steps, stacks that are the same at every step are not counted cell by cell."""
FEW_HOPS = 100
"""Deeper stacks are counted cell by cell at any length: that takes less time."""


def balanced_targets(cells: CellGraph, p: float = 1.0) -> Targets:
    """Every way out of a layer gets the same: d^(-1/p) where d edges leave a state.

    A plain stack gives 1/2 for p = 1 and 1/sqrt(2) for p = 2.

    Args:
        cells: the cell graph; with inputs and outputs as layers, the way to an output is counted as well.
        p: of the critical line.

    Raises:
        UsageError: p is less than 1.
    """
    hops = hops_of(cells)
    return _weights(hops, {hop: Fraction(_ways(hop)) for hop in hops}, p)


def unbalanced_targets(
    cells: CellGraph,
    num_steps: int,
    p: float = 1.0,
    *,
    sources: Sequence[Ends] | None = None,
    targets: Sequence[Ends] | None = None,
) -> Targets:
    """Every way out of a layer gets its share of the paths over a known number of steps and depth.

    The share is how often the paths from `sources` to `targets` take the way, of all their departures from
    the layer; among all weights with the same guarantee these make the geometric mean of a path's product
    largest. A plain stack of L layers between its input and output gives the paper's unbalanced pair
    T / (T + L) and L / (T + L).

    Args:
        cells: the cell graph.
        num_steps: T, the number of time edges from the first time to the last.
        p: of the critical line.
        sources, targets: by default the first and the last states.

    Raises:
        UsageError: p is less than 1, or there is no such state.
        AnalysisError: feedback both ways in time.
    """
    wide = at_steps(cells, num_steps + 1)
    starts, ends = sources or first_ends(wide), targets or last_ends(wide)
    uses = expected_uses(wide, starts, ends)
    hops = hops_of(wide)
    left: dict[str, Fraction] = {}
    for hop in hops:
        left[hop.source] = left.get(hop.source, Fraction()) + uses[hop]
    # A layer that no path leaves shares equally.
    return _weights(hops, {hop: uses[hop] if left[hop.source] else Fraction(_ways(hop)) for hop in hops}, p)


def expected_uses(cells: CellGraph, sources: Sequence[Ends], targets: Sequence[Ends]) -> dict[Hop, Fraction]:
    """How often a path from `sources` to `targets` takes each edge, on average over all paths, exactly.

    Raises:
        LimitExceededError: the grid is too large, and the stack too deep or its time not one-way.
        AnalysisError: feedback both ways in time.
    """
    hops, size = hops_of(cells), cells.num_steps
    if direction(hops) is not None and len(cells.layers) * size > MANY_CELLS and len(hops) <= FEW_HOPS:
        total = count_paths(cells, size, sources, targets).exact or 1
        return {hop: Fraction(_marked_paths(cells, hop, sources, targets), total) for hop in hops}
    check_columns(2 * len(cells.layers), size)
    layers = [layer.id for layer in cells.layers]
    since = sums_from(Exact(), layers, hops, size, _times(sources, size))
    to = sums_to(Exact(), layers, hops, size, _times(targets, size))
    total = sum(to[end.layer][time] for end in sources for time in end.times(size))
    return {
        hop: Fraction(
            sum(since[hop.source][t] * to[hop.target][u] for t, u in _pairs(hop, size)), max(total, 1)
        )
        for hop in hops
    }


def _marked_paths(cells: CellGraph, mark: Hop, sources: Sequence[Ends], targets: Sequence[Ends]) -> int:
    """The number of paths with one of their uses of a hop marked: paths on two copies of the stack.

    They start in the first copy and end in the second; the marked hop is the only way across.
    """
    hops = hops_of(cells)
    copies = [
        tuple(replace(layer, id=f"{copy}{layer.id}", time_step=0) for layer in cells.layers) for copy in "12"
    ]
    within = [
        DepthEdge(f"{copy}{hop.source}", f"{copy}{hop.target}", hop.lag) for hop in hops for copy in "12"
    ]
    across = DepthEdge(f"1{mark.source}", f"2{mark.target}", mark.lag)
    doubled = CellGraph((*copies[0], *copies[1]), (*within, across), cells.num_steps)
    starts = [replace(end, layer=f"1{end.layer}") for end in sources]
    stops = [replace(end, layer=f"2{end.layer}") for end in targets]
    return count_paths(doubled, cells.num_steps, starts, stops).exact or 0


def _times(ends: Iterable[Ends], num_steps: int) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for end in ends:
        found.setdefault(end.layer, set()).update(end.times(num_steps))
    return found


def _pairs(hop: Hop, num_steps: int) -> Iterable[tuple[int, int]]:
    if hop.pairs is not None:
        return hop.pairs
    return ((t, t + hop.lag) for t in range(num_steps) if 0 <= t + hop.lag < num_steps)


def _ways(hop: Hop) -> int:
    """How many edges of this hop leave one state."""
    return 1 if hop.pairs is None else max(Counter(time for time, _ in hop.pairs).values())


def _weights(hops: Sequence[Hop], parts: Mapping[Hop, Fraction], p: float) -> Targets:
    """Weights whose p-th powers, over all edges that leave a state, are as the given parts of 1."""
    if p < 1:
        raise UsageError("The exponent of the critical line must be at least 1", got=f"p = {p:g}")
    whole: dict[str, Fraction] = {}
    for hop in hops:
        whole[hop.source] = whole.get(hop.source, Fraction()) + parts[hop]
    return {hop: float(parts[hop] / (whole[hop.source] * _ways(hop))) ** (1.0 / p) for hop in hops}
