"""Which step each operation belongs to, as far as the graph leaves a choice.

Minimum-register retiming (C. Leiserson and J. Saxe, "Retiming synchronous circuitry", Algorithmica 6, 1991)
with preferences: a linear program over differences, solved as the minimum-cost flow that is its dual.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import networkx as nx

from lsc_graph.recurrence.unrolled.lanes import Lane

_Vertex = tuple[str, int]


@dataclass(frozen=True)
class _Bound:
    """y[upper] - y[lower] <= most; if it has a price, it may be exceeded at that price for each unit."""

    upper: _Vertex
    lower: _Vertex
    most: int
    price: int | None = None


def retime(lanes: Sequence[Lane], anchors: Lane, sizes: Sequence[int], wishes: Sequence[int]) -> list[int]:
    """The step of each lane as an offset to its index: node k of lane i belongs to step k + offset[i].

    No operation reads what a later step computes. Of all such choices those are taken that come closest to
    the wishes, of these those that hand the fewest elements from step to step, of these the earliest.

    Args:
        lanes: all of them; everyone is computed from the anchors.
        anchors: the lane whose offset is 0.
        sizes: number of elements of each lane's outputs.
        wishes: the offset that each lane would have if the loop was exported as it was written.
    """
    number = {id(lane): position for position, lane in enumerate(lanes)}
    root: _Vertex = ("step", number[id(anchors)])
    bounds = list(_order(lanes, number))
    price = sum(sizes) + 1
    for position, offset in enumerate(wishes):
        vertex: _Vertex = ("step", position)
        if vertex != root:
            bounds += [_Bound(vertex, root, offset, price), _Bound(root, vertex, -offset, price)]
    best = _smallest(_equivalent(bounds, sizes), root)
    return [best["step", position] for position in range(len(lanes))]


def _order(lanes: Sequence[Lane], number: dict[int, int]) -> list[_Bound]:
    bounds = []
    for position, lane in enumerate(lanes):
        bounds.append(_Bound(("step", position), ("last read", position), 0))
        for read in lane.reads.values():
            source = number[id(read.lane)]
            if source != position:
                bounds.append(_Bound(("step", source), ("step", position), read.shift))
            bounds.append(_Bound(("step", position), ("last read", source), -read.shift))
    return bounds


def _equivalent(bounds: Sequence[_Bound], sizes: Sequence[int]) -> list[_Bound]:
    """Bounds without prices that exactly the best solutions keep (complementary slackness)."""
    network: nx.MultiDiGraph[_Vertex] = nx.MultiDiGraph()
    for position, size in enumerate(sizes):
        network.add_node(("step", position), demand=-size)
        network.add_node(("last read", position), demand=size)
    for key, bound in enumerate(bounds):
        capacity = {} if bound.price is None else {"capacity": bound.price}
        network.add_edge(bound.upper, bound.lower, key=key, weight=bound.most, **capacity)
    _, flows = nx.network_simplex(network)
    kept = []
    for key, bound in enumerate(bounds):
        flow = flows[bound.upper][bound.lower][key]
        if bound.price is None or flow < bound.price:
            kept.append(_Bound(bound.upper, bound.lower, bound.most))
        if flow > 0:
            kept.append(_Bound(bound.lower, bound.upper, -bound.most))
    return kept


def _smallest(bounds: Sequence[_Bound], root: _Vertex) -> dict[_Vertex, int]:
    """The smallest solution with y[root] = 0: shortest distances are -y."""
    limits: nx.DiGraph[_Vertex] = nx.DiGraph()
    for bound in bounds:
        edge = limits.get_edge_data(bound.upper, bound.lower)
        most = bound.most if edge is None else min(bound.most, edge["weight"])
        limits.add_edge(bound.upper, bound.lower, weight=most)
    distances = nx.single_source_bellman_ford_path_length(limits, root)
    return {vertex: -int(distance) for vertex, distance in distances.items()}
