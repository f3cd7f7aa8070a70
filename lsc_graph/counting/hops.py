"""Every edge of a cell graph in one form: a hop from layer to layer over a fixed number of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import networkx as nx

from lsc_graph.layers.cells import CellGraph


@dataclass(frozen=True)
class Hop:
    """s[t - lag, source] -> s[t, target] at every t; or, with `pairs`, at the listed times only."""

    source: str
    target: str
    lag: int
    kind: Literal["time", "depth"]
    pairs: tuple[tuple[int, int], ...] | None = None

    def reversed(self) -> Hop:
        """The same edge, walked backwards."""
        pairs = None if self.pairs is None else tuple((u, t) for t, u in self.pairs)
        return Hop(self.target, self.source, -self.lag, self.kind, pairs)


Weights = Callable[[Hop], float]
"""log10 of the weight of a hop; -inf is a weight of 0."""


def hops_of(cells: CellGraph) -> tuple[Hop, ...]:
    """The hops of a cell graph, each edge of the unrolled grid in exactly one of them."""
    if not cells.has_one_length:
        return _listed_hops(cells)
    recurrent = [layer for layer in cells.layers if layer.has_time_edges]
    time = [Hop(layer.id, layer.id, layer.time_step, "time") for layer in recurrent]
    depth = [Hop(e.source, e.target, e.lag, "depth") for e in cells.depth_edges if e.time_pairs is None]
    found = {(hop.source, hop.target, hop.lag): hop for hop in reversed([*time, *depth])}
    periodic = [found[key] for key in reversed(found)]
    seen: set[tuple[str, str, int, int]] = set()
    listed = []
    for edge in cells.depth_edges:
        if edge.time_pairs is None:
            continue
        lags = {lag for source, target, lag in found if (source, target) == (edge.source, edge.target)}
        fresh = [(t, u) for t, u in edge.time_pairs if u - t not in lags]
        pairs = [(t, u) for t, u in fresh if (edge.source, edge.target, t, u) not in seen]
        seen.update((edge.source, edge.target, t, u) for t, u in pairs)
        listed.append(Hop(edge.source, edge.target, 0, "depth", tuple(dict.fromkeys(pairs))))
    return (*periodic, *(hop for hop in listed if hop.pairs))


def _listed_hops(cells: CellGraph) -> tuple[Hop, ...]:
    """All edges at listed times: layers that take fewer steps than others have none at the rest."""
    length = {layer.id: cells.steps_of(layer) for layer in cells.layers}
    pairs: dict[tuple[str, str, Literal["time", "depth"]], dict[tuple[int, int], None]] = {}
    for layer in cells.layers:
        if layer.has_time_edges:
            found = _pairs(layer.time_step, length[layer.id])
            pairs.setdefault((layer.id, layer.id, "time"), {}).update(found)
    for edge in cells.depth_edges:
        steps = min(length[edge.source], length[edge.target])
        found = dict.fromkeys(edge.time_pairs) if edge.time_pairs is not None else _pairs(edge.lag, steps)
        pairs.setdefault((edge.source, edge.target, "depth"), {}).update(found)
    return tuple(Hop(a, b, 0, kind, tuple(own)) for (a, b, kind), own in pairs.items() if own)


def _pairs(lag: int, steps: int) -> dict[tuple[int, int], None]:
    return {(t - lag, t): None for t in range(max(lag, 0), min(steps, steps + lag))}


def direction(hops: Iterable[Hop]) -> int | None:
    """1 if every hop goes forwards in time or stays, -1 if backwards or stays; None for both, or listed
    times.
    """
    signs = set()
    for hop in hops:
        if hop.pairs is not None:
            return None
        signs.add((hop.lag > 0) - (hop.lag < 0))
    return None if signs >= {1, -1} else (-1 if -1 in signs else 1)


def flow_of(hops: Iterable[Hop]) -> nx.DiGraph[str]:
    """Who hops to whom, whenever."""
    flow: nx.DiGraph[str] = nx.DiGraph()
    flow.add_edges_from((hop.source, hop.target) for hop in hops)
    return flow


def between(hops: Iterable[Hop], sources: Iterable[str], targets: Iterable[str]) -> tuple[Hop, ...]:
    """The hops that lie on some way from a source layer to a target layer."""
    hops = tuple(hops)
    after = _reach(hops, sources, lambda hop: (hop.source, hop.target))
    before = _reach(hops, targets, lambda hop: (hop.target, hop.source))
    return tuple(hop for hop in hops if hop.source in after and hop.target in before)


def _reach(hops: Iterable[Hop], starts: Iterable[str], ends_of: Callable[[Hop], tuple[str, str]]) -> set[str]:
    following: dict[str, list[str]] = {}
    for hop in hops:
        tail, head = ends_of(hop)
        following.setdefault(tail, []).append(head)
    seen = set(starts)
    pending = list(seen)
    while pending:
        fresh = [layer for layer in following.get(pending.pop(), ()) if layer not in seen]
        seen.update(fresh)
        pending += fresh
    return seen


def groups_of(layers: Iterable[str], hops: Iterable[Hop]) -> list[tuple[str, ...]]:
    """Layers that feed back into each other, together; every group after all that it is reached from."""
    flow = flow_of(hops)
    flow.add_nodes_from(layers)
    condensed = nx.condensation(flow)
    return [tuple(sorted(condensed.nodes[g]["members"])) for g in nx.topological_sort(condensed)]


def feeds_back(hops: Sequence[Hop]) -> bool:
    """Whether layers feed back into each other: then path counts grow exponentially with time."""
    inner = [hop.source for hop in hops if hop.source == hop.target]
    return len(set(inner)) < len(inner) or any(len(group) > 1 for group in groups_of((), hops))


def outgoing(hops: Iterable[Hop]) -> Mapping[str, list[Hop]]:
    """The hops by the layer that they leave."""
    found: dict[str, list[Hop]] = {}
    for hop in hops:
        found.setdefault(hop.source, []).append(hop)
    return found
