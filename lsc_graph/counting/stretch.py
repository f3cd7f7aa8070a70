"""Edges at listed times carried over to another number of steps, where they follow a rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from lsc_graph.counting.ends import at_steps
from lsc_graph.errors import UsageError
from lsc_graph.layers.cells import CellGraph, DepthEdge

Pairs = frozenset[tuple[int, int]]

_FEWEST_STEPS = 4
"""Over fewer steps than this, the ends cannot be told from the middle."""
_RULES: tuple[Callable[[int], Iterable[tuple[int, int]]], ...] = (
    lambda size: ((t, u) for t in range(size) for u in range(size)),
    lambda size: ((t, size - 1 - t) for t in range(size)),
    lambda size: ((t, size - 1) for t in range(size)),
    lambda size: ((t, 0) for t in range(size)),
    lambda size: ((0, t) for t in range(size)),
    lambda size: ((size - 1, t) for t in range(size)),
    lambda size: [(0, 0)],
    lambda size: [(0, size - 1)],
    lambda size: [(size - 1, 0)],
    lambda size: [(size - 1, size - 1)],
)
"""Ways to connect times that mean something at any T: all to all, flipped, one end to all, end to end."""


def stretched(cells: CellGraph, num_steps: int) -> CellGraph:
    """The cell graph over another number of steps.

    Edges with a lag stay. Edges at listed times are carried over if they are made of the rules above, each
    seen whole: the final state that is handed on, a flip in time, a mean over all steps.

    Raises:
        UsageError: an edge follows no such rule, or there are too few steps to tell.
    """
    if num_steps == cells.num_steps:
        return cells
    edges = tuple(_stretched(edge, cells.num_steps, num_steps) for edge in cells.depth_edges)
    carried = CellGraph(cells.layers, edges, num_steps)
    return at_steps(carried, num_steps)


def _stretched(edge: DepthEdge, own: int, num_steps: int) -> DepthEdge:
    if edge.time_pairs is None:
        return edge
    left, found = frozenset(edge.time_pairs), set[tuple[int, int]]()
    for rule in _RULES if own >= _FEWEST_STEPS else ():
        whole = frozenset(rule(own))
        if left & whole and whole <= frozenset(edge.time_pairs):
            left -= whole
            found |= set(rule(num_steps))
    if left:
        raise UsageError(
            "How the layers are connected over time is known for one number of steps only",
            where=f"{edge.source} -> {edge.target}",
            got=f"{num_steps} steps",
            expected=f"{own} steps",
        )
    return replace(edge, time_pairs=tuple(sorted(found, key=lambda pair: (pair[1], pair[0]))))
