"""Where one step of an unrolled recurrence ends and the next begins, as the network's author would say.

Exporters compute the first step from zeros by themselves, and leave out what nobody reads of the last, so that
most operations are there for fewer steps than the recurrence has. What is left says, in this order:

1. An operation that is there for every step is where its number says, and so is one that reads a slice of
   a sequence which has one for every step.
2. A value that another one alone determines is not handed on, but that other one, if that one is read in
   more places: U h follows from h, which the next layer reads too.
3. As few elements as possible are handed on.
4. Values that are read in several places are handed on rather than those that are read in one.
5. What follows from one other value by an affine function is left out, if it can be.
6. What is left is computed as early as possible.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

from lsc_graph.recurrence.unrolled.affine import is_affine
from lsc_graph.recurrence.unrolled.lanes import Lane, Walk
from lsc_graph.recurrence.unrolled.retiming import Optimum, retime
from lsc_graph.recurrence.unrolled.slices import step_numbers

_MOST_LAGS = 8


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
        offsets = self._offsets()
        starts = [
            first + offset
            for (first, _), offset, lane in zip(self.spans, offsets, self.lanes, strict=True)
            if not lane.is_head
        ]
        return Phase(tuple(offsets), self.num_steps, max(starts))

    def _offsets(self) -> list[int]:
        """Everything as early as possible, but for what is better late."""
        offsets, latest = self._optimum.earliest(), self._optimum.latest()
        for group in self._optimum.loose():
            late = list(offsets)
            for position in group:
                late[position] = latest[position]
            if self._num_independent(late) < self._num_independent(offsets):
                offsets = late
        return offsets

    def _num_independent(self, offsets: Sequence[int]) -> int:
        """How many elements are handed on, those left out that are affine functions of others."""
        lags = self._lags(offsets)
        return sum(
            lag * size
            for position, (lag, size) in enumerate(zip(lags, self.sizes, strict=True))
            if not (lag == 1 and self._is_affine_of_handed_on(position, offsets, lags))
        )

    def _lags(self, offsets: Sequence[int]) -> list[int]:
        """For how many steps each lane's outputs are handed on."""
        lags = [0] * len(self.lanes)
        for position, lane in enumerate(self.lanes):
            for read in lane.reads.values():
                source = self._number[id(read.lane)]
                lags[source] = max(lags[source], read.shift + offsets[position] - offsets[source])
        return lags

    def _is_affine_of_handed_on(self, position: int, offsets: Sequence[int], lags: Sequence[int]) -> bool:
        seen: set[int] = set()
        while position not in seen:
            seen.add(position)
            lane = self.lanes[position]
            node, reads = self.walk.pattern(lane), list(lane.reads.items())
            if len(reads) != 1 or self._is_news(lane):
                return False
            index, read = reads[0]
            value = node.inputs[index]
            source = self._number[id(read.lane)]
            is_same_step = read.shift + offsets[position] == offsets[source]
            if value is None or not is_affine(node, value) or not is_same_step:
                return False
            if lags[source] > 0:
                return True
            position = source
        return False

    @cached_property
    def _number(self) -> dict[int, int]:
        return {id(lane): position for position, lane in enumerate(self.lanes)}

    def _span(self, lane: Lane) -> tuple[int, int]:
        """The first and the last index of a lane; what comes before the first step may look like it."""
        indices = list(lane.images)
        if len(indices) > self.walk.newest + 3:
            indices = [index for index, node in lane.images.items() if node in self.walk.levels]
        return min(indices), max(indices)

    @cached_property
    def _optimum(self) -> Optimum:
        costs, price = self._costs()
        bounds = [self._range(lane, *span) for lane, span in zip(self.lanes, self.spans, strict=True)]
        return retime(self.lanes, costs, bounds, price)

    def _range(self, lane: Lane, first: int, last: int) -> tuple[int, int]:
        """The offsets that a lane may have: all its operations are in one of the steps.

        What reads a slice of a sequence that has one for every step belongs to that step.
        """
        earliest, latest = -first, self.num_steps - 1 - last
        for position in range(len(self.walk.pattern(lane).inputs)):
            if position not in lane.reads:
                column = {k: v for k, v in lane.column(position).items() if v is not None}
                number = step_numbers(column, self.num_steps, self.walk.constants)
                if number is not None:
                    return number, number
        return min(earliest, latest), max(earliest, latest)

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
        readers: Counter[tuple[int, int]] = Counter(
            (id(read.lane), read.output) for lane in self.lanes for read in lane.reads.values()
        )
        several = {lane for (lane, _), count in readers.items() if count > 1}
        return {
            id(lane): Reach.OUTSIDE if self._is_read_outside(lane) else Reach(id(lane) in several)
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
            if not self._is_news(lane)
        }
        found: set[int] = set()
        pending = [lane for lane, others in lacking.items() if not others]
        while pending:
            lane = pending.pop()
            if lane in found:
                continue
            found.add(lane)
            for reader in self._readers[lane]:
                if reader in lacking and not lacking[reader] - known - found:
                    pending.append(reader)
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
        return {
            id(lane): (int(self.reach[id(lane)]), last - first + 1 == self.num_steps)
            for lane, (first, last) in zip(self.lanes, self.spans, strict=True)
        }

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
