"""Where the nodes of a grid stand in a drawing: time to the right, depth upwards, long runs left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import networkx as nx

from lsc_graph.grid.unroll import GridNode

MAX_TIMES = 13
MAX_LEVELS = 24
"""More than this many times or levels are shown by their ends."""


@dataclass(frozen=True)
class Axis:
    """Places along one axis: `at` maps what is shown to its place; `gap` is the place of what is not."""

    at: dict[int, float]
    gap: float | None
    hidden: int


@dataclass(frozen=True)
class Layout:
    """Positions of the shown nodes; `rows` names the layer of each height."""

    at: dict[GridNode, tuple[float, float]]
    times: Axis
    levels: Axis
    rows: dict[float, str]


def axis_of(values: Sequence[int], most: int) -> Axis:
    """Sorted values in unit distances; if they are more than `most`, some from either end and a gap."""
    if len(values) <= most:
        return Axis({value: float(place) for place, value in enumerate(values)}, None, 0)
    head = (most - 1) // 2
    tail = most - 1 - head
    at = {value: float(place) for place, value in enumerate(values[:head])}
    at |= {value: float(head + 1 + place) for place, value in enumerate(values[-tail:])}
    return Axis(at, float(head), len(values) - head - tail)


def layout(grid: nx.DiGraph[GridNode]) -> Layout:
    """Time on x, and on y one row for each layer, by depth; layers of equal depth next to each other."""
    times = axis_of(sorted({node.time for node in grid}), MAX_TIMES)
    depth: dict[str, int] = {}
    for node, data in grid.nodes(data=True):
        depth[node.layer] = max(int(data["depth"]), depth.get(node.layer, 0))
    layers = sorted(depth, key=depth.__getitem__)
    levels = axis_of(range(len(layers)), MAX_LEVELS)
    shown = {layer: levels.at[index] for index, layer in enumerate(layers) if index in levels.at}
    at = {
        node: (times.at[node.time], shown[node.layer])
        for node in grid
        if node.time in times.at and node.layer in shown
    }
    return Layout(at, times, levels, {height: layer for layer, height in shown.items()})
