"""Where one step of an unrolled recurrence ends and the next begins, as the network's author would say.

Exporters compute the first step from zeros by themselves, and leave out what nobody reads of the last: most
operations are there for fewer steps than the recurrence has. What is left says, in this order:

1. An operation that is there for every step is where its number says, and so is one that reads a slice of
   a sequence which has one for every step. What the first step takes over as an input of the model is a
   state at the start of it: no exporter could have computed it there.
2. A value that another one alone determines is not handed on, but that other one, if that one is read in
   more places: U h follows from h, which the next layer reads too.
3. As few elements as possible are handed on.
4. Values that are read in several places are handed on rather than those that are read in one.
5. What follows from one other value by an affine function is left out, if it can be.
6. What is left is computed as early as possible.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from lsc_graph.errors import UsageError
from lsc_graph.recurrence.unrolled.affine import is_affine
from lsc_graph.recurrence.unrolled.behind import Behind
from lsc_graph.recurrence.unrolled.lanes import Lane, Walk
from lsc_graph.recurrence.unrolled.numbering import Numbering
from lsc_graph.recurrence.unrolled.retiming import Optimum, Tie, retime
from lsc_graph.recurrence.unrolled.slices import time_slice
from lsc_graph.recurrence.unrolled.worth import Reach, Worth

_MOST_LAGS = 8
_SHAPING = frozenset(
    ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Expand", "Transpose", "Gather", "Slice", "Split")
)


@dataclass(frozen=True)
class Phase:
    """The step of each operation: node k of lane i stands in step k + `offsets`[i], of `num_steps`.

    Attributes:
        offsets, num_steps: see above.
        first: the first step that has every operation.
        made: what a person has chosen here.
        open: what a person may choose instead, where nothing in the file tells.
    """

    offsets: tuple[int, ...]
    num_steps: int
    first: int
    made: tuple[Choice, ...]
    open: tuple[OpenChoice, ...]


@dataclass(frozen=True)
class Choice:
    """The step that takes over the value named `before` hands on the one named `after`."""

    before: str
    after: str


@dataclass(frozen=True)
class OpenChoice:
    """Values that may be computed at the end of a step, as is assumed, or at the start of the next one.

    Where there is a `source`, that is what is assumed to be handed on, and not what is made of that; or the
    other way round, if the other choice is that this is no state.
    """

    values: tuple[str, ...]
    other: Choice
    source: str | None = None


def find_phase(walk: Walk, sizes: Sequence[int], choices: Sequence[Choice] = ()) -> Phase:
    """The steps of a walk's lanes, of which the outputs have some numbers of elements.

    Raises:
        UsageError: the steps cannot be cut as a person has chosen.
    """
    return _Cutting(walk, sizes, choices).phase()


class _Cutting:
    def __init__(self, walk: Walk, sizes: Sequence[int], choices: Sequence[Choice] = ()) -> None:
        self.walk, self.lanes, self.sizes = walk, walk.lanes, sizes
        self.places = {
            str(value.name): (position, index)
            for position, lane in enumerate(walk.lanes)
            for index, node in lane.images.items()
            for value in node.outputs
        }
        self._behind = Behind(walk)
        self.choices = [c for c in choices if c.before in self.places and c.after in self.places]
        self._most = walk.newest + max(3, walk.longest_shift + 1)
        self.spans = [self._span(lane) for lane in self.lanes]
        self.num_steps = self._count_steps()
        self._worth = Worth(walk, [last - first + 1 >= self.num_steps for first, last in self.spans])

    def _count_steps(self) -> int:
        """As many as operations are there for, though what comes before the first step may look like one.

        Sequences that have a slice for every step tell, or joins of what all steps give.
        """
        pairs = [(lane, last - first + 1) for lane, (first, last) in zip(self.lanes, self.spans, strict=True)]
        counts = sorted({count for lane, count in pairs if not lane.is_head}, reverse=True)
        heads = {count for lane, count in pairs if lane.is_head and self._numbers(lane, count)}
        longest = sorted({*counts, *heads, *self._one_more(counts[0])}, reverse=True)
        sliced = (count for count in longest if any(self._numbers(lane, count) for lane in self.lanes))
        joined = (count for count in counts if count in self._joins)
        return next(itertools.chain(sliced, joined, counts))

    def _one_more(self, count: int) -> Iterator[int]:
        """A last step of which only read-outs are left: they read the one slice that is left."""
        heads = [lane for lane in self.lanes if lane.is_head]
        if any(self._numbers(lane, count + 1) for lane in heads):
            yield count + 1

    @cached_property
    def _joins(self) -> set[int]:
        """How many values are joined where steps are joined."""
        return {
            len(use.node.inputs)
            for lane in self.lanes
            for value in self.walk.pattern(lane).outputs
            for use in value.uses()
            if use.node.op_type == "Concat" and use.node not in self.walk.where
        }

    def _numbers(self, lane: Lane, num_steps: int) -> list[int]:
        """The offsets that a lane has by the slices that it reads of sequences of so many."""
        found = [self._numbering.offsets(column, num_steps) for column in self._columns[id(lane)]]
        return [min(own) for own in found if len(own) == 1]

    @cached_property
    def _numbering(self) -> Numbering:
        return Numbering([c for own in self._columns.values() for c in own], self.walk.constants)

    @cached_property
    def _columns(self) -> dict[int, list[dict[int, ir.Value]]]:
        """What each lane reads from outside, by index."""
        return {
            id(lane): [
                {k: value for k, value in lane.column(position).items() if value is not None}
                for position in range(len(self.walk.pattern(lane).inputs))
                if position not in lane.reads
            ]
            for lane in self.lanes
        }

    def phase(self) -> Phase:
        offsets = self._offsets()
        for choice in self.choices:
            if not self._is_so(choice, offsets):
                raise UsageError(
                    "The steps of an unrolled recurrence cannot be cut apart as --state says",
                    got=f"--state {choice.before}:{choice.after}",
                    expected="a value that a step takes over, and one that the same step hands on",
                    do="leave out --state, and see which values `lsc-graph inspect` names as states",
                )
        starts = [
            first + offset
            for (first, _), offset, lane in zip(self.spans, offsets, self.lanes, strict=True)
            if not lane.is_head
        ]
        found = tuple(self._open(offsets))
        return Phase(tuple(offsets), self.num_steps, max(starts), tuple(self.choices), found)

    def _open(self, offsets: Sequence[int]) -> Iterator[OpenChoice]:
        """What hands on as much, and is as good by all rules."""
        for group in self._optimum.loose():
            other = self._moved(offsets, group)
            choice = next(self._told_apart(other, offsets, group), None)
            if choice is not None and self._num_independent(other) == self._num_independent(offsets):
                handed_on = [position for position in group if self._lags(offsets)[position]]
                names = [self.walk.pattern(self.lanes[position]).outputs[0].name for position in handed_on]
                yield OpenChoice(tuple(map(str, names)), choice)
        yield from self._hidden(offsets)

    def _hidden(self, offsets: Sequence[int]) -> Iterator[OpenChoice]:
        """What may be handed on instead of a value that only steps read, though the rules like it less."""
        lags, loose = self._lags(offsets), {p for group in self._optimum.loose() for p in group}
        for position, lane in enumerate(self.lanes):
            is_known = lane.is_head or position in loose or self._worth.reach[id(lane)] is Reach.OUTSIDE
            if lags[position] != 1 or is_known:
                continue
            other = self._retimed(avoided=position).earliest()
            new = [p for p, lag in enumerate(self._lags(other)) if lag and not lags[p]]
            moved = [p for p in range(len(self.lanes)) if other[p] != offsets[p]]
            if len(new) != 1 or not self._is_as_small(other, offsets):
                continue
            if not self._handed_on_behind(new[0], lags) > {position}:  # else no more than another form of it
                continue
            choice = next(self._told_apart(other, offsets, moved), None)
            if choice is not None:
                source = str(self.walk.pattern(lane).outputs[0].name)
                made = str(self.walk.pattern(self.lanes[new[0]]).outputs[0].name)
                yield OpenChoice((made,), choice, source)

    def _is_as_small(self, other: Sequence[int], offsets: Sequence[int]) -> bool:
        """Whether as many elements are handed on with other offsets."""
        one, two = (
            [lag * size for lag, size in zip(self._lags(own), self.sizes, strict=True)]
            for own in (other, offsets)
        )
        return sum(one) == sum(two) and self._num_independent(other) == self._num_independent(offsets)

    def _handed_on_behind(self, position: int, lags: Sequence[int]) -> set[int]:
        """The lanes that are handed on from which a lane is computed, by others that are not."""
        found, seen, pending = set(), {position}, [position]
        while pending:
            for read in self.lanes[pending.pop()].reads.values():
                source = self._number[id(read.lane)]
                if lags[source]:
                    found.add(source)
                elif source not in seen:
                    seen.add(source)
                    pending.append(source)
        return found

    def _told_apart(
        self, offsets: Sequence[int], from_others: Sequence[int], group: Sequence[int]
    ) -> Iterator[Choice]:
        """Choices that hold with some offsets and not with others."""
        handed_on = [position for position, lag in enumerate(self._lags(offsets)) if lag]
        pairs = itertools.product(handed_on, repeat=2)
        for before, after in sorted(pairs, key=lambda pair: len({*pair} & {*group}) != 1):
            for step in range(self.num_steps - 2, 0, -1):
                names = self._name(before, step - 1, offsets), self._name(after, step, offsets)
                if names[0] is not None and names[1] is not None:
                    choice = Choice(names[0], names[1])
                    if not self._is_so(choice, from_others):
                        yield choice
                    break

    def _name(self, position: int, step: int, offsets: Sequence[int]) -> str | None:
        node = self.lanes[position].images.get(step - offsets[position])
        return str(node.outputs[0].name) if node is not None else None

    def _is_so(self, choice: Choice, offsets: Sequence[int]) -> bool:
        (one, index), (two, next_index) = self.places[choice.before], self.places[choice.after]
        lags = self._lags(offsets)
        is_next = index + offsets[one] + 1 == next_index + offsets[two]
        return is_next and lags[one] > 0 and lags[two] > 0

    def _offsets(self) -> list[int]:
        """Everything as early as possible, but for what is better late."""
        offsets = self._optimum.earliest()
        for group in self._optimum.loose():
            late = self._moved(offsets, group)
            if self._num_independent(late) < self._num_independent(offsets):
                offsets = late
        return offsets

    def _moved(self, offsets: Sequence[int], group: Sequence[int]) -> list[int]:
        """The offsets with a loose group as late as it may be, or as early if it is late."""
        early, late = self._optimum.earliest(), self._optimum.latest()
        return [
            early[position] + late[position] - offset if position in group else offset
            for position, offset in enumerate(offsets)
        ]

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
            if len(reads) != 1 or self._worth.is_news(lane):
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
        """The first and the last index of a lane; what comes before the first step may look like it, and what
        comes behind the last.
        """
        indices = sorted(lane.images)[: -1 if self._behind.is_last(lane) else None]
        if len(indices) > self._most:
            indices = [index for index in indices if lane.images[index] in self.walk.levels]
        return min(indices), max(indices)

    @cached_property
    def _optimum(self) -> Optimum:
        return self._retimed()

    def _retimed(self, avoided: int | None = None) -> Optimum:
        """The best choices, of all or of those that hand on anything rather than one of the lanes."""
        costs = self._costs()
        if avoided is not None:
            costs[avoided] += sum(costs)
        bounds = [self._range(lane, *span) for lane, span in zip(self.lanes, self.spans, strict=True)]
        ties = []
        for choice in self.choices:
            (before, index), (after, next_index) = self.places[choice.before], self.places[choice.after]
            ties.append(Tie(before, after, index + 1 - next_index))
        return retime(self.lanes, costs, bounds, _MOST_LAGS * sum(costs) + 1, ties)

    def _range(self, lane: Lane, first: int, last: int) -> tuple[int, int]:
        """The offsets that a lane may have: all its operations are in one of the steps.

        What reads a slice of a sequence that has one for every step belongs to that step.
        """
        earliest, latest = -first, self.num_steps - 1 - last
        numbers = self._numbers(lane, self.num_steps)
        if numbers:
            return numbers[0], numbers[0]
        if any(index == first - 1 and self._is_given(value) for (index, _), value in lane.starts.items()):
            return earliest, earliest
        return min(earliest, latest), max(earliest, latest)

    def _is_given(self, value: ir.Value) -> bool:
        """Whether a first state is an input of the model, or part of one that is no sequence of the steps."""
        while not value.is_graph_input():
            node, taken = value.producer(), time_slice(value, self.walk.constants)
            is_sliced = taken is not None and taken.source in self._sequences
            if is_sliced or node is None or node.op_type not in _SHAPING or node.inputs[0] is None:
                return False
            value = node.inputs[0]
        return True

    @cached_property
    def _sequences(self) -> set[ir.Value]:
        """What the steps read slices of."""
        columns = [
            lane.column(position).values()
            for lane in self.lanes
            for position in range(len(self.walk.pattern(lane).inputs))
            if position not in lane.reads
        ]
        values = {value for column in columns if len({*column}) > 1 for value in column if value is not None}
        slices = [time_slice(value, self.walk.constants) for value in values]
        return {taken.source for taken in slices if taken is not None}

    def _costs(self) -> list[int]:
        """What handing on each lane's outputs costs."""
        per_element = 3 * _MOST_LAGS * len(self.lanes)
        per_derived = per_element * _MOST_LAGS * sum(self.sizes)
        return [
            per_element * size
            + (Reach.OUTSIDE - self._worth.reach[id(lane)])
            + per_derived * self._worth.is_derived(lane)
            for lane, size in zip(self.lanes, self.sizes, strict=True)
        ]
