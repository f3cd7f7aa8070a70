"""Which step each operation belongs to, as far as the graph leaves a choice.

Minimum-register retiming (C. Leiserson and J. Saxe, "Retiming synchronous circuitry", Algorithmica 6, 1991)
with prices: a linear program over differences, solved as the minimum-cost flow that is its dual.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import networkx as nx

from lsc_graph.recurrence.unrolled.lanes import Lane

_Vertex = tuple[str, int]
_ROOT: _Vertex = ("recurrence", 0)


@dataclass(frozen=True)
class _Bound:
    """y[upper] - y[lower] <= most; if it has a price, it may be exceeded at that price for each unit."""

    upper: _Vertex
    lower: _Vertex
    most: int
    price: int | None = None


@dataclass(frozen=True)
class Tie:
    """Lane `after` has an offset larger by `difference` than lane `before`, and both are handed on."""

    before: int
    after: int
    difference: int


@dataclass(frozen=True)
class Optimum:
    """All the best choices: those that keep some bounds. One of them is the earliest, and one the latest."""

    num_lanes: int
    bounds: tuple[_Bound, ...]

    def loose(self) -> list[list[int]]:
        """Groups of lanes that may be early or late, each whatever the others are."""
        early, late = self._smallest(), self._largest()
        moving = {vertex for vertex in early if early[vertex] != late[vertex]}
        graph: nx.Graph[_Vertex] = nx.Graph()
        graph.add_nodes_from(moving)
        graph.add_edges_from((b.upper, b.lower) for b in self.bounds if {b.upper, b.lower} <= moving)
        groups = [sorted(i for what, i in part if what == "step") for part in nx.connected_components(graph)]
        return sorted(group for group in groups if group)

    def earliest(self) -> list[int]:
        """The offset of each lane, the smallest that any best choice has."""
        return self._offsets(self._smallest())

    def latest(self) -> list[int]:
        """The offset of each lane, the largest that any best choice has."""
        return self._offsets(self._largest())

    def _offsets(self, values: dict[_Vertex, int]) -> list[int]:
        return [values["step", position] for position in range(self.num_lanes)]

    def _smallest(self) -> dict[_Vertex, int]:
        return {vertex: -distance for vertex, distance in _distances(self.bounds).items()}

    def _largest(self) -> dict[_Vertex, int]:
        return _distances([_Bound(b.lower, b.upper, b.most) for b in self.bounds])


def _distances(bounds: Sequence[_Bound]) -> dict[_Vertex, int]:
    limits: nx.DiGraph[_Vertex] = nx.DiGraph()
    for bound in bounds:
        edge = limits.get_edge_data(bound.upper, bound.lower)
        most = bound.most if edge is None else min(bound.most, edge["weight"])
        limits.add_edge(bound.upper, bound.lower, weight=most)
    found = nx.single_source_bellman_ford_path_length(limits, _ROOT)
    return {vertex: int(distance) for vertex, distance in found.items()}


def retime(
    lanes: Sequence[Lane],
    costs: Sequence[int],
    ranges: Sequence[tuple[int, int]],
    price: int,
    ties: Sequence[Tie] = (),
) -> Optimum:
    """The step of each lane as an offset to its index: node k of lane i belongs to step k + offset[i].

    No operation reads what a later step computes. Of all such choices those are taken that leave the ranges
    as little as possible, and of these those that hand on from step to step what costs least.

    Args:
        lanes: all of them.
        costs: of handing on a lane's outputs by one step.
        ranges: the smallest and the largest offset of each lane.
        price: of leaving a range by one step.
        ties: what comes before all that.
    """
    number = {id(lane): position for position, lane in enumerate(lanes)}
    bounds = list(_order(lanes, number))
    for position, (smallest, largest) in enumerate(ranges):
        vertex: _Vertex = ("step", position)
        bounds += [_Bound(vertex, _ROOT, largest, price), _Bound(_ROOT, vertex, -smallest, price)]
    bounds += _tied(ties, 2 * price * (len(lanes) + 1))
    return Optimum(len(lanes), tuple(_equivalent(bounds, costs)))


def _tied(ties: Sequence[Tie], price: int) -> Iterator[_Bound]:
    for tie in ties:
        before: _Vertex = ("step", tie.before)
        after: _Vertex = ("step", tie.after)
        yield _Bound(after, before, tie.difference, price)
        yield _Bound(before, after, -tie.difference, price)
        for position in (tie.before, tie.after):
            yield _Bound(("step", position), ("last read", position), -1, price)


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


def _equivalent(bounds: Sequence[_Bound], costs: Sequence[int]) -> list[_Bound]:
    """Bounds without prices that exactly the best solutions keep (complementary slackness)."""
    network: nx.MultiDiGraph[_Vertex] = nx.MultiDiGraph()
    for position, cost in enumerate(costs):
        network.add_node(("step", position), demand=-cost)
        network.add_node(("last read", position), demand=cost)
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
