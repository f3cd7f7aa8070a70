"""What is known about the edges and nodes of an unrolled grid, written onto them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import networkx as nx

from lsc_graph.grid.paths import log10_of_count, num_paths_from_each
from lsc_graph.grid.unroll import GridNode
from lsc_graph.results import LayerFacts


def annotate_counts(
    grid: nx.DiGraph[GridNode], sources: Iterable[GridNode], targets: Iterable[GridNode]
) -> None:
    """Give every node and edge the number of paths from `sources` to `targets` through it.

    The attributes are `num_paths`, an exact int, and `log10_num_paths`, absent where there is no path.

    Raises:
        UsageError: a source or target is not in the grid.
    """
    to = num_paths_from_each(grid, targets)
    since = num_paths_from_each(grid.reverse(copy=False), sources)
    for node, data in grid.nodes(data=True):
        _set(data, since[node] * to[node])
    for tail, head, data in grid.edges(data=True):
        _set(data, since[tail] * to[head])


def _set(data: dict[str, object], count: int) -> None:
    data["num_paths"] = count
    log10 = log10_of_count(count)
    if log10 is not None:
        data["log10_num_paths"] = log10


def annotate_factors(grid: nx.DiGraph[GridNode], layers: Sequence[LayerFacts]) -> None:
    """Give every edge the mean `radius` and `gain` of its local Jacobians, where an audit measured them."""
    known = {}
    for layer in layers:
        known[layer.id, layer.id] = layer.time_radius, layer.time_gain
        for edge in layer.depth_edges:
            known[edge.source, layer.id] = edge.radius, edge.gain
    for tail, head, data in grid.edges(data=True):
        radius, gain = known.get((tail.layer, head.layer), (None, None))
        if radius is not None:
            data["radius"] = radius.mean
        if gain is not None:
            data["gain"] = gain.mean
