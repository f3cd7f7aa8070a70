"""How well the values of an unrolled step are known: how far they are read, and what determines them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from enum import IntEnum
from functools import cached_property

from lsc_graph.recurrence.unrolled.behind import Behind
from lsc_graph.recurrence.unrolled.lanes import Lane, Walk


class Reach(IntEnum):
    """How far a value is read."""

    ONE_PLACE = 0
    SEVERAL_PLACES = 1
    OUTSIDE = 2


class Worth:
    """What tells states from mere intermediate values.

    Args:
        walk: the lanes.
        are_whole: for each lane, whether it is there for every step.
    """

    def __init__(self, walk: Walk, are_whole: Sequence[bool]) -> None:
        self.walk, self.lanes = walk, walk.lanes
        self._behind = Behind(walk)
        self._is_whole = {id(lane): own for lane, own in zip(walk.lanes, are_whole, strict=True)}

    @cached_property
    def reach(self) -> dict[int, Reach]:
        """How far each lane is read, by its id."""
        readers: Counter[tuple[int, int]] = Counter(
            (id(read.lane), read.output) for lane in self.lanes for read in lane.reads.values()
        )
        several = {lane for (lane, _), count in readers.items() if count > 1}
        return {
            id(lane): Reach.OUTSIDE if self._is_read_outside(lane) else Reach(id(lane) in several)
            for lane in self.lanes
        }

    def _is_read_outside(self, lane: Lane) -> bool:
        """Whether anybody else reads its nodes; the first one may stand for that of another recurrence, too,
        as what is multiplied by zeros does, and the last one be no step's.
        """
        first, last = min(lane.images), max(lane.images) if self._behind.is_last(lane) else None
        known = [(k, node) for k, node in lane.images.items() if node in self.walk.levels]
        nodes = [node for k, node in known if k > first and k != last]
        return any(
            value.is_graph_output() or any(use.node not in self.walk.where for use in value.uses())
            for node in nodes
            for value in node.outputs
        )

    def is_derived(self, lane: Lane) -> bool:
        """Whether values that are better known than this one determine it."""
        return id(lane) in self._following[self._worth[id(lane)]]

    @cached_property
    def _following(self) -> dict[tuple[int, bool], set[int]]:
        """For each worth, the lanes that values of more worth determine, by their ids."""
        return {worth: self._determined_by_more(worth) for worth in set(self._worth.values())}

    def _determined_by_more(self, worth: tuple[int, bool]) -> set[int]:
        known = {lane for lane, own in self._worth.items() if own > worth}
        lacking = {
            id(lane): {id(r.lane) for r in lane.reads.values()} - known
            for lane in self.lanes
            if not self.is_news(lane)
        }
        found: set[int] = set()
        pending = [lane for lane, others in lacking.items() if not others]
        while pending:
            lane = pending.pop()
            if lane in found:
                continue
            found.add(lane)
            pending += [r for r in self._readers[lane] if r in lacking and not lacking[r] - found]
        return found

    @cached_property
    def _readers(self) -> defaultdict[int, set[int]]:
        found: defaultdict[int, set[int]] = defaultdict(set)
        for lane in self.lanes:
            for read in lane.reads.values():
                found[id(read.lane)].add(id(lane))
        return found

    @cached_property
    def _worth(self) -> dict[int, tuple[int, bool]]:
        """How far each lane is read, and whether it is there for every step, by its id."""
        return {id(lane): (int(self.reach[id(lane)]), self._is_whole[id(lane)]) for lane in self.lanes}

    def is_news(self, lane: Lane) -> bool:
        """Whether a lane holds more than other lanes: what steps read from outside, or what was chosen.

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
