"""The cell graph unrolled over depth x time as a directed acyclic graph (theory sections 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import networkx as nx

from lsc_graph.cells import CellGraph, DepthEdge, Layer
from lsc_graph.errors import AnalysisError, LimitExceededError, UsageError

MAX_GRID_NODES = 2_000_000


class GridNode(NamedTuple):
    """The state of one layer at one time."""

    layer: str
    time: int


def unroll(cells: CellGraph, num_steps: int | None = None) -> nx.DiGraph[GridNode]:
    """The depth x time DAG of a cell graph.

    Nodes carry `depth`; edges carry `kind`, "time" or "depth".

    Args:
        cells: the cell graph.
        num_steps: T; by default that of the cell graph.

    Raises:
        UsageError: another T was asked for, but some depth edges are known for the cell graph's own T only.
        LimitExceededError: the grid would have more than MAX_GRID_NODES nodes.
        AnalysisError: the edges form a cycle.
    """
    steps = cells.num_steps if num_steps is None else num_steps
    _check_size(cells, steps)
    depth = depths(cells)
    grid: nx.DiGraph[GridNode] = nx.DiGraph()
    for layer in cells.layers:
        grid.add_nodes_from((GridNode(layer.id, t) for t in range(steps)), depth=depth[layer.id])
        grid.add_edges_from(_time_edges(layer, steps), kind="time")
    for edge in cells.depth_edges:
        grid.add_edges_from(_depth_edges(edge, cells, steps), kind="depth")
    if not nx.is_directed_acyclic_graph(grid):
        raise AnalysisError(
            "The unrolled grid has a cycle",
            got=" -> ".join(f"{a.layer}@{a.time}" for a, _ in nx.find_cycle(grid)),
            expected="states that depend on other layers at the same or an earlier step only",
            do="please report this model",
        )
    return grid


def _check_size(cells: CellGraph, steps: int) -> None:
    if steps < 1:
        raise UsageError("The number of steps must be at least 1", got=str(steps))
    if steps * len(cells.layers) > MAX_GRID_NODES:
        raise LimitExceededError(
            "The unrolled grid would be too large",
            got=f"{len(cells.layers)} layers x {steps} steps",
            expected=f"at most {MAX_GRID_NODES} grid nodes",
            do="ask for fewer steps",
        )


def _time_edges(layer: Layer, steps: int) -> Iterator[tuple[GridNode, GridNode]]:
    if layer.time_step:
        for time in range(steps):
            source = time - layer.time_step
            if 0 <= source < steps:
                yield GridNode(layer.id, source), GridNode(layer.id, time)


def _depth_edges(edge: DepthEdge, cells: CellGraph, steps: int) -> Iterator[tuple[GridNode, GridNode]]:
    if edge.time_pairs is None:
        pairs = [(time - edge.lag, time) for time in range(steps) if 0 <= time - edge.lag < steps]
    elif steps == cells.num_steps:
        pairs = list(edge.time_pairs)
    else:
        raise UsageError(
            "How the layers are connected over time is known for one number of steps only",
            where=f"{edge.source} -> {edge.target}",
            got=f"{steps} steps",
            expected=f"{cells.num_steps} steps",
        )
    for source, target in pairs:
        yield GridNode(edge.source, source), GridNode(edge.target, target)


def depths(cells: CellGraph) -> dict[str, int]:
    """Depth of each layer: the longest way to it over depth edges within one step (lag 0).

    Edges between different times do not order layers where they would close a cycle.
    """
    order: nx.DiGraph[str] = nx.DiGraph()
    order.add_nodes_from(layer.id for layer in cells.layers)
    within = [edge for edge in cells.depth_edges if edge.time_pairs is None and edge.lag == 0]
    order.add_edges_from((edge.source, edge.target) for edge in within)
    for edge in cells.depth_edges:
        if edge not in within and not nx.has_path(order, edge.target, edge.source):
            order.add_edge(edge.source, edge.target)
    found: dict[str, int] = {}
    for layer in nx.topological_sort(order):
        found[layer] = max((found[below] + 1 for below in order.predecessors(layer)), default=0)
    return found


def first_states(cells: CellGraph) -> tuple[GridNode, ...]:
    """The first state, in its own direction, of every layer of least depth."""
    depth = depths(cells)
    least = min(depth.values())
    return tuple(_first(layer, cells.num_steps) for layer in cells.layers if depth[layer.id] == least)


def last_states(cells: CellGraph) -> tuple[GridNode, ...]:
    """The last state, in its own direction, of every layer of greatest depth."""
    depth, last = depths(cells), cells.num_steps - 1
    greatest = max(depth.values())
    return tuple(
        GridNode(layer.id, 0 if layer.time_step < 0 else last)
        for layer in cells.layers
        if depth[layer.id] == greatest
    )


def _first(layer: Layer, steps: int) -> GridNode:
    return GridNode(layer.id, steps - 1 if layer.time_step < 0 else 0)
