"""What a step reads from outside: the same at every step, a slice of a sequence, or a value of its own."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.dataflow import inputs_of
from lsc_graph.recurrence.layered.row_ways import ELEMENTWISE
from lsc_graph.recurrence.unrolled.constants import Constants, is_offset
from lsc_graph.recurrence.unrolled.lanes import StepsDifferError, is_alike
from lsc_graph.recurrence.unrolled.slices import TimeSlice, size_along, slices_behind, time_slice
from lsc_graph.recurrence.unrolled.steps import Images, Steps
from lsc_graph.wording import few

OTHER_WEIGHTS = "the steps use different weights"
_MAX_LIFTED_DEPTH = 200
_COMPARING = frozenset(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mod"))


@dataclass(frozen=True)
class Slices:
    """Step k reads `source` at `indices[k]` of `axis`."""

    source: ir.Value
    axis: int
    keeps_axis: bool
    indices: tuple[int, ...]

    @property
    def stride(self) -> int | None:
        """The constant difference between the indices of neighbouring steps."""
        differences = set(np.diff(self.indices).tolist())
        return differences.pop() if len(differences) == 1 else None

    def longer(self, before: int, after: int) -> Slices | None:
        """With some more slices at the start and at the end, as they go on; None if the sequence has none."""
        size, stride = size_along(self.source, self.axis), self.stride
        if not stride or size is None:
            return None
        first, last = self.indices[0] - before * stride, self.indices[-1] + after * stride
        is_there = 0 <= first < size and 0 <= last < size
        return replace(self, indices=tuple(range(first, last + stride, stride))) if is_there else None


@dataclass
class Reads:
    """Where the values come from that a step reads, by the value that the pattern step reads.

    Attributes:
        captures: the same value at every step.
        slices: one slice of a sequence for each step.
        stacks: an unrelated value for each step.
        lifted: nodes that every step applies to such values before it uses them, with their images.
    """

    captures: dict[ir.Value, ir.Value] = field(default_factory=dict)
    slices: dict[ir.Value, Slices] = field(default_factory=dict)
    stacks: dict[ir.Value, tuple[ir.Value, ...]] = field(default_factory=dict)
    lifted: dict[ir.Node, tuple[ir.Node, ...]] = field(default_factory=dict)

    def update(self, other: Reads) -> None:
        """Take over everything that another reading has found."""
        self.captures |= other.captures
        self.slices |= other.slices
        self.stacks |= other.stacks
        self.lifted |= other.lifted


class _NotAlikeError(Exception):
    """The steps read things that have nothing in common."""


def find_reads(steps: Steps, constants: Constants, *, lifts: bool = True) -> Reads:
    """Explain every outside value of an unrolled recurrence.

    The last step may lack some, whose use was trimmed, and the first ones those of read-outs that constants
    have simplified: then the neighbouring slices of the same sequence stand there.
    With `lifts`, what every step applies to a slice is followed back to it; else it is a value of its own.

    Raises:
        StepsDifferError: the steps use different weights, a step lacks a value, or sizes differ.
    """
    reads = Reads()
    hard: dict[ir.Value, tuple[int, Images]] = {}
    seen: dict[ir.Value, Images] = {}
    for key, lane in _filled_by_ties(steps.outside, constants).items():
        if None in (lane[0], lane[-1]) and (trimmed := _read_where_known(steps, key, lane, constants)):
            reads.update(trimmed)
            continue
        is_lacking = _lacks_steps(key, lane, constants)
        before, part = _known_part(lane) if is_lacking else (0, _whole(key, lane, constants))
        reading = _Reading(steps.position, constants, lifts=lifts, before=before)
        try:
            found = reading.of(part)
            if not is_lacking:
                reads.update(found)
                continue
        except _NotAlikeError:
            pass
        hard[key] = (len(reading.lanes), lane)
        after = len(lane) - before - len(part)
        for own, images in reading.lanes.items():
            seen[own] = _merged([*[None] * before, *images, *[None] * after], seen.get(own))
    _read_hard(hard, seen, reads, steps, constants, lifts=lifts)
    _check_sizes(reads)
    return reads


def _filled_by_ties(outside: Mapping[ir.Value, Images], constants: Constants) -> dict[ir.Value, Images]:
    """Lanes of constants that lack steps, as what the last one computes for nobody, filled by equal ones.

    A gate that a clock opens for two states stands in some files once for each. Offsets are zeros there.
    """
    known = [lane for lane in outside.values() if all(v is not None and v in constants for v in lane)]
    found = dict(outside)
    for key, lane in outside.items():
        if is_offset(key):
            found[key] = [key if own is None else own for own in lane]
        elif None in lane and all(value is None or value in constants for value in lane):
            tie = next((own for own in known if _is_same_where_known(lane, own, constants)), lane)
            found[key] = [other if own is None else own for own, other in zip(lane, tie, strict=True)]
    return found


def _is_same_where_known(lane: Images, other: Images, constants: Constants) -> bool:
    pairs = [(one, two) for one, two in zip(lane, other, strict=True) if one is not None and two is not None]
    return len(pairs) > 1 and all(constants.same(one, two) for one, two in pairs)


def _check_sizes(reads: Reads) -> None:
    """Refuse values that grow from step to step, as joins of all that there is so far: no loop reads them."""
    for key, values in reads.stacks.items():
        sizes = dict.fromkeys(shape for value in values if (shape := static_shape(value)) is not None)
        if len(sizes) > 1:
            got = " and ".join(str(list(shape)) for shape in list(sizes)[:2])
            raise StepsDifferError((), f"what they read as {key.name} differs in size, such as {got}")


def _read_hard(
    hard: Mapping[ir.Value, tuple[int, Images]],
    seen: Mapping[ir.Value, Images],
    reads: Reads,
    steps: Steps,
    constants: Constants,
    *,
    lifts: bool,
) -> None:
    """Take values of each step's own as they are, and compute from these what others are computed from them.

    Args:
        hard: what has no other explanation, and how much it is computed from.
        seen: what these are computed from, as far as any of them tells: one may lack a step that others have.
        reads: gets them.
    """
    full = {key: [v for v in lane if v is not None] for key, lane in seen.items() if None not in lane}
    for key in sorted(hard, key=lambda own: hard[own][0]):
        lane = _merged(hard[key][1], seen.get(key))
        if _lacks_steps(key, lane, constants):
            found = _read_where_known(steps, key, lane, constants, known=reads.stacks, full=full)
            if found is not None:
                reads.update(found)
                continue
        whole = _whole(key, lane, constants)
        try:
            reads.update(_Reading(steps.position, constants, lifts=lifts, known=reads.stacks).of(whole))
        except _NotAlikeError:
            reads.stacks[key] = tuple(whole)


def _merged(lane: Images, other: Images | None) -> Images:
    """One lane filled with what another one has, if they do not differ."""
    pairs = list(zip(lane, other or lane, strict=True))
    is_same = all(one is None or two is None or one is two for one, two in pairs)
    return [two if one is None else one for one, two in pairs] if is_same else lane


def _known_part(lane: Images) -> tuple[int, list[ir.Value]]:
    """The first step that has a value, and the values from there to the first that lacks one, or the end."""
    known = itertools.takewhile(lambda v: v is not None, itertools.dropwhile(lambda v: v is None, lane))
    part = [value for value in known if value is not None]
    return next(step for step, value in enumerate(lane) if value is not None), part


def _lacks_steps(key: ir.Value, lane: Images, constants: Constants) -> bool:
    """Whether a value is lacking at some step, which is no constant."""
    return None in lane and not all(value is None or constants.same(value, key) for value in lane)


def _read_where_known(
    steps: Steps,
    key: ir.Value,
    lane: Images,
    constants: Constants,
    known: Mapping[ir.Value, tuple[ir.Value, ...]] | None = None,
    full: Mapping[ir.Value, list[ir.Value]] | None = None,
) -> Reads | None:
    """What all steps but the first ones and the last one read, if that goes on there: slices, and numbers."""
    before, part = _known_part(lane)
    after = len(lane) - before - len(part)
    if after > 1 or not 0 <= steps.position - before < len(part):
        return None
    try:
        reads = _Reading(steps.position, constants, before=before, known=known, full=full).of(part)
    except _NotAlikeError:
        return None
    explained = [*reads.slices, *reads.stacks, *(own for own in reads.lifted if known)]
    return _going_on(reads, before, after, len(lane), constants) if explained else None


def _going_on(reads: Reads, before: int, after: int, length: int, constants: Constants) -> Reads | None:
    """What some steps read, with as much as goes on before and after them; None if something does not."""
    slices = {
        own: found if len(found.indices) == length else found.longer(before, after)
        for own, found in reads.slices.items()
    }
    stacks = {
        own: found if len(found) == length else constants.going_on(found, before, after)
        for own, found in reads.stacks.items()
    }
    if None in slices.values() or None in stacks.values():
        return None
    reads.slices = {own: found for own, found in slices.items() if found is not None}
    reads.stacks = {own: found for own, found in stacks.items() if found is not None}
    return reads


def times_per_step(reads: Reads) -> tuple[str, int] | None:
    """A sequence of which every step reads several slices that no other step reads, and how many."""
    found: dict[tuple[ir.Value, int, int], set[int]] = {}
    for own in reads.slices.values():
        stride = abs(own.stride or 0)
        if stride > 1:
            found.setdefault((own.source, own.axis, stride), set()).add(own.indices[0] % stride)
    several = [(str(key[0].name), len(phases)) for key, phases in found.items() if len(phases) > 1]
    return max(several, key=lambda own: own[1], default=None)


def is_reverse(reads: Reads, constants: Constants) -> bool:
    """Whether most sequences are read from their end to their start, slice by slice or in windows."""
    directions = [slices.stride or 0 for slices in reads.slices.values()]
    if not directions:
        directions = [way for values in reads.stacks.values() for way in _directions(values, constants)]
    return sum(way < 0 for way in directions) > sum(way > 0 for way in directions)


def _directions(values: Sequence[ir.Value], constants: Constants) -> list[int]:
    """Which way the steps go through each sequence that most of some values are computed from slices of.

    An end of it may be there as a last state, too.
    """
    found = [slices_behind(value, constants) for value in values]
    places = set[tuple[ir.Value, int]]().union(*found)
    means = [[float(np.mean([*own[place]])) for own in found if place in own] for place in places]
    return [int(np.sign(own[-1] - own[0])) for own in means if 2 * len(own) > len(values)]


def find_earlier_reads(steps: Steps, constants: Constants, *, lifts: bool = True) -> Reads:
    """What the steps read, with the one before the first, for those of its operations that are there."""
    reads = Reads()
    for key, lane in steps.outside.items():
        before = steps.outside_earlier.get(key)
        whole = [*before[:1], *lane] if before else [None]
        part = [value for value in itertools.takewhile(lambda v: v is not None, whole) if value is not None]
        after = len(whole) - len(part)
        if not part or after > 1:
            continue
        try:
            found = _Reading(steps.position + 1, constants, lifts=lifts).of(part)
            reads.update(_going_on(found, 0, after, len(whole), constants) or Reads())
        except _NotAlikeError:
            if not after:
                reads.stacks[key] = tuple(part)
    return reads


def nodes_before(steps: Steps, reads: Reads) -> set[ir.Node]:
    """The nodes that what the steps read or start from is computed by: they are part of no step."""
    pending = [images[0] for images in steps.states.values()]
    pending += [*reads.captures.values(), *(slices.source for slices in reads.slices.values())]
    pending += [value for values in reads.stacks.values() for value in values]
    found = set[ir.Node]()
    while pending:
        value = pending.pop()
        node = value.producer() if value is not None else None
        if node is not None and node not in found:
            found.add(node)
            pending += inputs_of(node)
    return found


def _whole(key: ir.Value, lane: Images, constants: Constants) -> list[ir.Value]:
    if all(value is None or constants.same(value, key) for value in lane):
        return [key] * len(lane)
    if constants.is_matrix(key) and all(value is None or value in constants for value in lane):
        names = few(value.name for value in lane if value is not None)
        raise StepsDifferError((), f"{OTHER_WEIGHTS}: {names}")
    lacking = [step for step, value in enumerate(lane) if value is None]
    if lacking:
        raise StepsDifferError(lacking, f"nothing stands for {key.name} there")
    return [value for value in lane if value is not None]


class _Reading:
    """One outside value followed back, in all steps at once, to sequences and constants.

    Args:
        position: the step of the pattern.
        constants: of the graph.
        lifts: whether what is applied to slices is followed back to them.
        before: how many first steps lack the value.
        known: what each step has of its own anyway.
        full: what may be taken as that, and what it is at all steps.

    Attributes:
        reads: how the value is read.
        lanes: what came up on the way.
    """

    def __init__(
        self,
        position: int,
        constants: Constants,
        *,
        lifts: bool = True,
        before: int = 0,
        known: Mapping[ir.Value, tuple[ir.Value, ...]] | None = None,
        full: Mapping[ir.Value, list[ir.Value]] | None = None,
    ) -> None:
        self.position, self.constants, self.lifts, self.before = position - before, constants, lifts, before
        self.known, self.full = known or {}, full or {}
        self.reads = Reads()
        self.lanes: dict[ir.Value, list[ir.Value]] = {}

    def of(self, lane: list[ir.Value]) -> Reads:
        """How one value is read, that is `lane` at the steps.

        Raises:
            _NotAlikeError: the steps have nothing in common.
        """
        self._follow(lane, 0)
        return self.reads

    def _follow(self, lane: list[ir.Value], depth: int) -> None:
        key = lane[self.position]
        if key in self.lanes:
            return
        self.lanes[key] = lane
        if self.known.get(key, ())[self.before :][: len(lane)] == tuple(lane):
            return
        if depth and key in self.full:
            self._take_full(key)
            return
        if all(self.constants.same(value, key) for value in lane):
            self.reads.captures[key] = key
            return
        slices = self._slices(lane)
        if slices is not None:
            self.reads.slices[key] = slices
            return
        nodes = [value.producer() for value in lane]
        own = nodes[self.position]
        if own is None:
            self._take_each(key, lane)
            return
        if not self.lifts or depth > _MAX_LIFTED_DEPTH or len(set(nodes)) < len(nodes):
            raise _NotAlikeError
        self._lift(own, [node for node in nodes if node is not None], lane, depth)

    def _take_full(self, key: ir.Value) -> None:
        lane, position = self.full[key], self.position + self.before
        try:
            self.reads.update(_Reading(position, self.constants, lifts=self.lifts, known=self.known).of(lane))
        except _NotAlikeError:
            self.reads.stacks[key] = tuple(lane)

    def _lift(self, own: ir.Node, nodes: list[ir.Node], lane: list[ir.Value], depth: int) -> None:
        index = lane[self.position].index()
        if len(nodes) < len(lane) or any(value.index() != index for value in lane):
            raise _NotAlikeError
        if not all(is_alike(node, own) for node in nodes):
            raise _NotAlikeError
        self.reads.lifted[own] = tuple(nodes)
        for position, value in enumerate(own.inputs):
            inputs = [node.inputs[position] for node in nodes]
            present = [given for given in inputs if given is not None]
            if value is None and not present:
                continue
            if value is None or len(present) < len(inputs) or _is_shape_operand(own, position, present):
                raise _NotAlikeError
            self._follow(present, depth + 1)

    def _take_each(self, key: ir.Value, lane: list[ir.Value]) -> None:
        """Inputs of the model, or small constants, that each step has its own of."""
        if any(value.producer() is not None for value in lane) or self.constants.is_matrix(key):
            raise _NotAlikeError
        if len({self._kind(value) for value in lane}) > 1:
            raise _NotAlikeError
        self.reads.stacks[key] = tuple(lane)

    def _kind(self, value: ir.Value) -> tuple[object, ...]:
        array = self.constants.array(value)
        shape = array.shape if array is not None else tuple(value.shape or ())
        return (value in self.constants, shape)

    def _slices(self, lane: list[ir.Value]) -> Slices | None:
        found = [time_slice(value, self.constants) for value in lane]
        slices = [one for one in found if one is not None]
        if len(slices) < len(lane) or len({_place(one) for one in slices}) > 1:
            return None
        first = slices[0]
        return Slices(first.source, first.axis, first.keeps_axis, tuple(one.index for one in slices))


def _place(one: TimeSlice) -> tuple[object, ...]:
    return (one.source, one.axis, one.keeps_axis)


def _is_shape_operand(node: ir.Node, position: int, values: Sequence[ir.Value]) -> bool:
    """Whether integers that differ between the steps say what the operator does, not what it computes on."""
    if node.op_type in ELEMENTWISE | _COMPARING:
        return False
    is_integer = values[0].dtype is not None and values[0].dtype.is_integer()
    if values[0].const_value is not None:
        is_integer = values[0].const_value.dtype.is_integer()
    return is_integer and position > 0 and len({id(value) for value in values}) > 1 and not _equal(values)


def _equal(values: Sequence[ir.Value]) -> bool:
    arrays = [np.asarray(v.const_value.numpy()) if v.const_value is not None else None for v in values]
    first = arrays[0]
    return first is not None and all(a is not None and np.array_equal(a, first) for a in arrays)
