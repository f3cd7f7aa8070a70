"""Where paths start and end: states of layers, at single times or at all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from lsc_graph.counting.hops import Hop, Weights
from lsc_graph.errors import UsageError
from lsc_graph.grid.unroll import depths
from lsc_graph.layers.cells import CellGraph, Layer

MOST_MOVED = 64
"""Ends are not replaced by more others than this."""
_SUM = "\0"


@dataclass(frozen=True)
class Ends:
    """States of one layer: at one time (negative: counted from the end), or at every time (None)."""

    layer: str
    time: int | None

    def times(self, num_steps: int) -> range:
        """The times meant. Raises UsageError if there is no such time."""
        if self.time is None:
            return range(num_steps)
        time = self.time + num_steps if self.time < 0 else self.time
        if not 0 <= time < num_steps:
            raise UsageError(
                "There is no such time",
                where=self.layer,
                got=str(self.time),
                expected=f"0 to {num_steps - 1}, or -{num_steps} to -1 from the end",
            )
        return range(time, time + 1)

    def normal(self, num_steps: int) -> Ends:
        """The same states, with the last time always as -1."""
        if self.time is None:
            return self
        (time,) = self.times(num_steps)
        return Ends(self.layer, -1 if 0 < time == num_steps - 1 else time)


def first_ends(cells: CellGraph) -> tuple[Ends, ...]:
    """`first_states` at any number of steps."""
    return _extreme(cells, min, forward=0)


def last_ends(cells: CellGraph) -> tuple[Ends, ...]:
    """`last_states` at any number of steps."""
    return _extreme(cells, max, forward=-1)


def _extreme(cells: CellGraph, best: Callable[[Collection[int]], int], forward: int) -> tuple[Ends, ...]:
    depth = depths(cells)
    wanted = best(depth.values() or [0])
    return tuple(
        Ends(layer.id, _absolute(cells, layer, -1 - forward if layer.time_step < 0 else forward))
        for layer in cells.layers
        if depth[layer.id] == wanted
    )


def _absolute(cells: CellGraph, layer: Layer, time: int) -> int:
    """The last time of a layer that takes fewer steps than others is not theirs."""
    is_short = cells.steps_of(layer) != cells.num_steps
    return time + cells.steps_of(layer) if is_short and time < 0 else time


def at_steps(cells: CellGraph, num_steps: int) -> CellGraph:
    """The cell graph over another number of steps.

    Raises:
        UsageError: fewer than one step, or edges are known for the cell graph's own number of steps only.
    """
    listed = [edge for edge in cells.depth_edges if edge.time_pairs is not None]
    if num_steps < 1:
        raise UsageError("The number of steps must be at least 1", got=str(num_steps))
    if num_steps != cells.num_steps and not cells.has_one_length:
        raise UsageError(
            "The recurrences take different numbers of steps, so paths are counted over the model's own only",
            got=f"{num_steps} steps",
            expected=f"{cells.num_steps} steps",
        )
    if num_steps != cells.num_steps and listed:
        raise UsageError(
            "How the layers are connected over time is known for one number of steps only",
            where=f"{listed[0].source} -> {listed[0].target}",
            got=f"{num_steps} steps",
            expected=f"{cells.num_steps} steps",
        )
    return CellGraph(cells.layers, cells.depth_edges, num_steps)


def moved(
    ends: tuple[Ends, ...], others: tuple[Ends, ...], hops: Sequence[Hop], num_steps: int, *, ahead: bool
) -> tuple[Ends, ...]:
    """Ends that hang on a few listed edges only, such as a final state, moved to where these lead.

    That changes no count, but leaves edges that are the same at every step. Nothing moves where a path could
    be of length 0, or where two paths would become one.
    """
    found: list[Ends] = []
    for end in ends:
        ways = [hop for hop in hops if (hop.source if ahead else hop.target) == end.layer]
        listed = [(hop, hop.pairs) for hop in ways if hop.pairs is not None]
        if not ways or len(listed) < len(ways) or end.layer in {other.layer for other in others}:
            found.append(end)
            continue
        for hop, pairs in listed:
            near, far = (0, 1) if ahead else (1, 0)
            times = [pair[far] for pair in pairs if pair[near] in end.times(num_steps)]
            found += [Ends(hop.target if ahead else hop.source, time).normal(num_steps) for time in times]
    is_safe = len(set(found)) == len(found) <= len(ends) + MOST_MOVED
    safe_layers = {e.layer for e in found if e.time is None}.isdisjoint(
        e.layer for e in found if e.time is not None
    )
    return tuple(found) if found and is_safe and safe_layers else ends


def at_single_times(
    ends: Iterable[Ends], num_steps: int, way: int, *, opens: bool
) -> tuple[dict[int, frozenset[str]], tuple[Hop, ...]]:
    """Layers by time, and further hops: what is meant at every time is a layer that adds up over time.

    Args:
        ends: where paths start (`opens`) or end.
        num_steps: T.
        way: the direction of time.
        opens: whether paths start there.
    """
    found: dict[int, set[str]] = {}
    hops: list[Hop] = []
    every = {end.layer for end in ends if end.time is None}
    name = _SUM + ("from" if opens else "to")
    if every:
        hops = [Hop(name, name, way, "time")]
        hops += [Hop(name, s, 0, "depth") if opens else Hop(s, name, 0, "depth") for s in sorted(every)]
        found[0 if opens == (way > 0) else num_steps - 1] = {name}
    for end in ends:
        if end.layer not in every:
            for time in end.times(num_steps):
                found.setdefault(time, set()).add(end.layer)
    return {time: frozenset(layers) for time, layers in found.items()}, tuple(hops)


def only_of_model(log10_weight: Weights) -> Weights:
    """Weights of the model's own hops; those that merely add up are 1."""
    return lambda hop: 0.0 if hop.source[:1] == _SUM or hop.target[:1] == _SUM else log10_weight(hop)
