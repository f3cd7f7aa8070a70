"""Where one step of an unrolled recurrence ends and the next begins, as the network's author would say.

Exporters compute the first step from zeros by themselves, and leave out what nobody reads of the last, so that
most operations are there for fewer steps than the recurrence has. What is left says, in this order:

1. An operation that is there for every step is where its number says.
2. A value that another one alone determines is not handed on, but that other one, if that one is read in
   more places: U h follows from h, which the next layer reads too.
3. As few elements as possible are handed on.
4. Values that are read in several places are handed on rather than those that are read in one.
5. What is left is computed as early as possible.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import networkx as nx

from lsc_graph.recurrence.unrolled.lanes import Lane, Walk
from lsc_graph.recurrence.unrolled.retiming import Optimum, retime

_MOST_LAGS = 8
_NOBODY = 0


class Reach(IntEnum):
    """How far a value is read."""

    ONE_PLACE = 0
    SEVERAL_PLACES = 1
    OUTSIDE = 2


@dataclass(frozen=True)
class Phase:
    """The step that each operation belongs to: node k of lane i stands in step k + `offsets`[i], of `num_steps`.

    `first` is the first step that has every operation.
    """

    offsets: tuple[int, ...]
    num_steps: int
    first: int


def find_phase(walk: Walk, sizes: Sequence[int]) -> Phase:
    """The steps of a walk's lanes, of which the outputs have some numbers of elements."""
    return _Cutting(walk, sizes).phase()


class _Cutting:
    def __init__(self, walk: Walk, sizes: Sequence[int]) -> None:
        self.walk, self.lanes, self.sizes = walk, walk.lanes, sizes
        self.spans = [self._span(lane) for lane in self.lanes]
        self.num_steps = max(
            last - first + 1
            for lane, (first, last) in zip(self.lanes, self.spans, strict=True)
            if not lane.is_head
        )

    def phase(self) -> Phase:
        offsets = tuple(self._optimum.earliest())
        starts = [
            first + offset
            for (first, _), offset, lane in zip(self.spans, offsets, self.lanes, strict=True)
            if not lane.is_head
        ]
        return Phase(offsets, self.num_steps, max(starts))

    def _span(self, lane: Lane) -> tuple[int, int]:
        """The first and the last index of a lane; what comes before the first step may look like it."""
        indices = list(lane.images)
        if len(indices) > self.walk.newest + 3:
            indices = [index for index, node in lane.images.items() if node in self.walk.levels]
        return min(indices), max(indices)

    @cached_property
    def _optimum(self) -> Optimum:
        costs, price = self._costs()
        bounds = []
        for first, last in self.spans:
            latest = self.num_steps - 1 - last
            bounds.append((min(-first, latest), max(-first, latest)))
        return retime(self.lanes, costs, bounds, price)

    def _costs(self) -> tuple[list[int], int]:
        """What handing on each lane's outputs costs, and the price of anything else."""
        per_element = 3 * _MOST_LAGS * len(self.lanes)
        per_derived = per_element * _MOST_LAGS * sum(self.sizes)
        costs = [
            per_element * size + (Reach.OUTSIDE - self.reach[id(lane)]) + per_derived * self._is_derived(lane)
            for lane, size in zip(self.lanes, self.sizes, strict=True)
        ]
        return costs, _MOST_LAGS * sum(costs) + 1

    @cached_property
    def reach(self) -> dict[int, Reach]:
        """How far each lane is read, by its id."""
        readers: defaultdict[int, int] = defaultdict(int)
        for lane in self.lanes:
            for read in lane.reads.values():
                readers[id(read.lane)] += 1
        return {
            id(lane): Reach.OUTSIDE if self._is_read_outside(lane) else Reach(min(1, readers[id(lane)] // 2))
            for lane in self.lanes
        }

    def _is_read_outside(self, lane: Lane) -> bool:
        nodes = [node for node in lane.images.values() if node in self.walk.levels]
        return any(
            value.is_graph_output() or any(use.node not in self.walk.where for use in value.uses())
            for node in nodes
            for value in node.outputs
        )

    def _is_derived(self, lane: Lane) -> bool:
        """Whether a value that is read farther determines this one."""
        own, above = self.reach[id(lane)], id(lane)
        while (above := self._deciders.get(above, _NOBODY)) != _NOBODY:
            if self.reach[above] > own:
                return True
        return False

    @cached_property
    def _deciders(self) -> dict[int, int]:
        """For each lane, the nearest one that alone determines it, by their ids: the dominators of the reads."""
        flow: nx.DiGraph[int] = nx.DiGraph()
        flow.add_node(_NOBODY)
        for lane in self.lanes:
            flow.add_edges_from((id(read.lane), id(lane)) for read in lane.reads.values())
            if self._is_news(lane):
                flow.add_edge(_NOBODY, id(lane))
        found: dict[int, int] = nx.immediate_dominators(flow, _NOBODY)
        return found

    def _is_news(self, lane: Lane) -> bool:
        """Whether a lane holds more, or something else, than another one: what steps read from outside, or choices.

        What was chosen, such as a spike or a token, is not described by what it was chosen by.
        """
        node = self.walk.pattern(lane)
        shifts: defaultdict[int, set[int]] = defaultdict(set)
        for read in lane.reads.values():
            shifts[id(read.lane)].add(read.shift)
        is_choice = any(v.dtype is not None and not v.dtype.is_floating_point() for v in node.outputs)
        return is_choice or any(len(own) > 1 for own in shifts.values()) or self._reads_outside(lane)

    def _reads_outside(self, lane: Lane) -> bool:
        """Whether its nodes read values from outside of the recurrence that differ from step to step."""
        for position in range(len(self.walk.pattern(lane).inputs)):
            column = {value for value in lane.column(position).values() if value is not None}
            is_fixed = len(column) < 2 or all(value in self.walk.constants for value in column)
            if position not in lane.reads and not is_fixed:
                return True
        return False
