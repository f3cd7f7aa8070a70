"""The cell graph unrolled over depth x time as a directed acyclic graph (theory sections 1 and 2).

A node is the state of one layer at one time; an edge is one local Jacobian. The paper's rectangular grid
(arXiv 2308.12075) is the special case of a plain stack; skips, both directions of a
bidirectional layer and shifted or permuted times are other edges of the same graph.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import networkx as nx

from lsc_graph.errors import AnalysisError, LimitExceededError, UsageError
from lsc_graph.layers.cells import CellGraph, DepthEdge, Layer

MAX_GRID_NODES = 2_000_000
"""Cap on num_layers x num_steps: networkx needs about 1.4 kB for a node and its edges, 3 GB at the cap."""

_SHOWN_OF_A_CYCLE = 6


class GridNode(NamedTuple):
    """The state of one layer (its id) at one time."""

    layer: str
    time: int


def unroll(cells: CellGraph, num_steps: int | None = None) -> nx.DiGraph[GridNode]:
    """The depth x time DAG of a cell graph.

    Nodes carry `name` (of the layer), `depth` and `kind`, "recurrent" or "feed_forward", or "input" or
    "output" where these are layers of the cell graph. Edges carry
    `kind`: "time", with the id of their `layer`, or "depth", with the ids `source` and `target`.

    Args:
        cells: the cell graph.
        num_steps: T; by default that of the cell graph.

    Raises:
        UsageError: another T was asked for, but some depth edges are known for the cell graph's own T only.
        LimitExceededError: the grid would have more than MAX_GRID_NODES nodes.
        AnalysisError: the edges form a cycle, or lead out of the grid.
    """
    steps = cells.num_steps if num_steps is None else num_steps
    _check_size(cells, steps)
    depth = depths(cells)
    grid: nx.DiGraph[GridNode] = nx.DiGraph()
    # Edges refer to the nodes' own tuples: equal ones for every edge would double the memory.
    lengths = {layer.id: _length(cells, layer, steps) for layer in cells.layers}
    nodes = {id_: [GridNode(id_, time) for time in range(length)] for id_, length in lengths.items()}
    with _without_garbage_collection():
        for layer in cells.layers:
            kind = "recurrent" if layer.time_step else "feed_forward"
            kind = kind if layer.role == "state" else layer.role
            grid.add_nodes_from(nodes[layer.id], name=layer.name, depth=depth[layer.id], kind=kind)
        for layer in cells.layers:
            ends = _time_edges(layer, lengths[layer.id])
            grid.add_edges_from(_between(nodes, layer.id, layer.id, ends), kind="time", layer=layer.id)
        for edge in cells.depth_edges:
            pairs = _between(
                nodes, edge.source, edge.target, _depth_edges(edge, cells.num_steps, steps, lengths)
            )
            grid.add_edges_from(pairs, kind="depth", source=edge.source, target=edge.target)
        _check_grid(grid, sum(lengths.values()))
    return grid


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Millions of small objects and no circles: looking for garbage would take half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _between(
    nodes: dict[str, list[GridNode]], source: str, target: str, times: Iterable[tuple[int, int]]
) -> Iterator[tuple[GridNode, GridNode]]:
    """The nodes at pairs of times; new ones where an edge leads out of the grid, which is refused later."""
    tails, heads = nodes.get(source, []), nodes.get(target, [])
    for tail, head in times:
        yield (
            tails[tail] if 0 <= tail < len(tails) else GridNode(source, tail),
            heads[head] if 0 <= head < len(heads) else GridNode(target, head),
        )


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


def _check_grid(grid: nx.DiGraph[GridNode], num_nodes: int) -> None:
    if len(grid) != num_nodes:
        raise AnalysisError(
            "A depth edge leads out of the grid",
            got=", ".join(f"{n.layer}@{n.time}" for n, depth in grid.nodes(data="depth") if depth is None),
            expected="known layers, and times from 0 to T-1",
            do="please report this model",
        )
    _check_acyclic(grid, "The unrolled grid has a cycle")


def _check_acyclic(graph: nx.DiGraph[GridNode] | nx.DiGraph[str], what: str) -> None:
    if not nx.is_directed_acyclic_graph(graph):
        cycle = [f"{n.layer}@{n.time}" if isinstance(n, GridNode) else n for n, _ in nx.find_cycle(graph)]
        shown = cycle[:_SHOWN_OF_A_CYCLE] + ["..."] * (len(cycle) > _SHOWN_OF_A_CYCLE)
        raise AnalysisError(
            what,
            got=" -> ".join(shown),
            expected="states that depend on other layers at the same or an earlier step only",
            do="please report this model",
        )


def _time_edges(layer: Layer, steps: int) -> Iterable[tuple[int, int]]:
    """s[t - time_step] -> s[t]; in a reverse layer (time_step -1) from t + 1 to t; none for delays."""
    return _shifted(layer.time_step, steps) if layer.has_time_edges else ()


def _length(cells: CellGraph, layer: Layer, steps: int) -> int:
    """How many of the grid's steps a layer takes."""
    if layer.num_steps is None or layer.num_steps == cells.num_steps:
        return steps
    if steps != cells.num_steps:
        raise UsageError(
            "The recurrences take different numbers of steps, so only the model's own length can be unrolled",
            where=layer.name,
            got=f"{steps} steps",
            expected=f"{cells.num_steps} steps",
        )
    return layer.num_steps


def _depth_edges(
    edge: DepthEdge, own_steps: int, steps: int, lengths: Mapping[str, int]
) -> Iterable[tuple[int, int]]:
    if edge.time_pairs is not None and steps != own_steps:
        raise UsageError(
            "How the layers are connected over time is known for one number of steps only",
            where=f"{edge.source} -> {edge.target}",
            got=f"{steps} steps",
            expected=f"{own_steps} steps",
        )
    if edge.time_pairs is not None:
        return edge.time_pairs
    return _shifted(edge.lag, min(lengths.get(edge.source, steps), lengths.get(edge.target, steps)))


def _shifted(lag: int, steps: int) -> Iterator[tuple[int, int]]:
    """(t - lag, t) for all t where both lie in 0..T-1."""
    return ((time - lag, time) for time in range(max(lag, 0), min(steps, steps + lag)))


def united(first: CellGraph, second: CellGraph) -> CellGraph:
    """One cell graph with the depth edges of both: which times are connected may depend on the data."""
    if set(second.depth_edges) <= set(first.depth_edges):
        return first
    edges: list[DepthEdge] = []
    for ends in dict.fromkeys(
        (edge.source, edge.target) for edge in (*first.depth_edges, *second.depth_edges)
    ):
        one, other = (
            [e for e in cells.depth_edges if (e.source, e.target) == ends] for cells in (first, second)
        )
        edges += one if set(other) <= set(one) else _joined(ends, [*one, *other], first)
    return CellGraph(first.layers, tuple(edges), first.num_steps)


def _joined(ends: tuple[str, str], edges: Iterable[DepthEdge], cells: CellGraph) -> list[DepthEdge]:
    """Several edges between two layers as one that lists all pairs of times."""
    lengths = {layer.id: cells.steps_of(layer) for layer in cells.layers}
    pairs = {pair for e in edges for pair in _depth_edges(e, cells.num_steps, cells.num_steps, lengths)}
    return [DepthEdge(*ends, time_pairs=tuple(sorted(pairs, key=lambda pair: (pair[1], pair[0]))))]


def depths(cells: CellGraph) -> dict[str, int]:
    """Depth of each layer by id: the length of the longest way to it over depth edges, from 0.

    Layers that feed back into each other through an earlier step (mutual lag-1 dependencies) are no
    cycle: between them only edges within one step put one above the other. An edge with
    `time_pairs` is within one step if some pair has equal times.

    Raises:
        AnalysisError: layers depend on each other within one step.
    """
    flow: nx.DiGraph[str] = nx.DiGraph()
    flow.add_nodes_from(layer.id for layer in cells.layers)
    flow.add_edges_from((edge.source, edge.target) for edge in cells.depth_edges)
    group = {id_: index for index, ids in enumerate(nx.strongly_connected_components(flow)) for id_ in ids}
    order: nx.DiGraph[str] = nx.DiGraph()
    order.add_nodes_from(flow)
    for edge in cells.depth_edges:
        if _is_within_a_step(edge) or group[edge.source] != group[edge.target]:
            order.add_edge(edge.source, edge.target)
    _check_acyclic(order, "Layers depend on each other within one step")
    found: dict[str, int] = {}
    for id_ in nx.topological_sort(order):
        found[id_] = max((found[below] + 1 for below in order.predecessors(id_)), default=0)
    return found


def _is_within_a_step(edge: DepthEdge) -> bool:
    return edge.lag == 0 if edge.time_pairs is None else any(t == u for t, u in edge.time_pairs)


def first_states(cells: CellGraph) -> tuple[GridNode, ...]:
    """The first state, in its own direction, of every layer of least depth.

    That is time 0, and T-1 in a reverse layer. A layer without recurrence counts as a forward one, so
    that "first" means the farthest from the end.
    """
    depth = depths(cells)
    least = min(depth.values(), default=0)
    return tuple(
        GridNode(layer.id, cells.steps_of(layer) - 1 if layer.time_step < 0 else 0)
        for layer in cells.layers
        if depth[layer.id] == least
    )


def last_states(cells: CellGraph) -> tuple[GridNode, ...]:
    """The last state, in its own direction, of every layer of greatest depth: time T-1, or 0 in reverse."""
    depth = depths(cells)
    greatest = max(depth.values(), default=0)
    return tuple(
        GridNode(layer.id, 0 if layer.time_step < 0 else cells.steps_of(layer) - 1)
        for layer in cells.layers
        if depth[layer.id] == greatest
    )
