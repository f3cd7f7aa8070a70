"""An unrolled recurrence as one step and its images: what it takes over, computes, hands on, and reads."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from lsc_graph.recurrence.unrolled.chains import Order
from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.recurrence.unrolled.lanes import Lane, LaneRead, StepsDifferError, Walk
from lsc_graph.recurrence.unrolled.phase import Choice, OpenChoice, Phase, find_phase
from lsc_graph.recurrence.writer import GraphWriter

Images = list[ir.Value | None]
"""One value per step, None where a step lacks it."""


@dataclass(frozen=True)
class Derivation:
    """A value taken over is computed again, as `nodes` lead from the keys of `bases` to `result`.

    Of each of these, `bases` has the key under which the next step takes it over; `images` are the values
    that stand for the result in the graph.
    """

    bases: Mapping[ir.Value, ir.Value]
    nodes: tuple[ir.Node, ...]
    result: ir.Value
    images: Images


@dataclass
class Steps:
    """One step of an unrolled recurrence (that at `position`) and its images at all others.

    Attributes:
        num_steps: T.
        position: the step that the keys of the following are taken from.
        nodes: per node of the step, its images.
        values: per value that the step computes, its images.
        states: per value that the step takes over from the one before: what each step takes over.
        after: per key of `states`, the key in `values` or `states` of what the step hands on in its place.
        num_lacking: how many steps before the first one lack operations.
        earlier: per key of `states`, what stood for it at each of these, the nearest first, where known.
        outside: per value that the step reads from outside of the recurrence: what each step reads.
        outside_earlier: the same for the steps that `num_lacking` counts, the nearest first.
        begun: per value that the step computes: what stands for it at these steps, the nearest first, where
            known.
        num_put_back: how many of these have become steps.
        num_left_out: how many steps behind the last one lack what nobody reads, and so are none of them.
        heads: those of `nodes` that no state depends on.
        derived: values taken over that are no states, for others determine them.
        made, open: where the steps are cut apart, see `Phase`.
    """

    num_steps: int
    position: int
    nodes: dict[ir.Node, list[ir.Node | None]] = field(default_factory=dict)
    values: dict[ir.Value, Images] = field(default_factory=dict)
    states: dict[ir.Value, Images] = field(default_factory=dict)
    after: dict[ir.Value, ir.Value] = field(default_factory=dict)
    num_lacking: int = 0
    earlier: dict[ir.Value, Images] = field(default_factory=dict)
    outside: dict[ir.Value, Images] = field(default_factory=dict)
    outside_earlier: dict[ir.Value, Images] = field(default_factory=dict)
    begun: dict[ir.Value, Images] = field(default_factory=dict)
    num_put_back: int = 0
    num_left_out: int = 0
    heads: set[ir.Node] = field(default_factory=set)
    derived: dict[ir.Value, Derivation] = field(default_factory=dict)
    made: tuple[Choice, ...] = ()
    open: tuple[OpenChoice, ...] = ()

    def images(self, key: ir.Value) -> Images:
        """What a computed or taken-over value is at every step."""
        return self.values[key] if key in self.values else self.states[key]

    def standing(self, key: ir.Value, step: int) -> ir.Value | None:
        """The same at one step, or what stands for it there if it was simplified away."""
        image, number = self.images(key)[step], self.num_put_back - 1 - step
        known = self.begun.get(key, [])
        return known[number] if image is None and 0 <= number < len(known) else image

    def derive(self, known: dict[ir.Value, ir.Value], writer: GraphWriter) -> None:
        """Compute what is taken over but is no state, by new nodes; `known` grows by it."""
        pending = dict(self.derived)
        while pending:
            key = next(key for key, own in pending.items() if not pending.keys() & {*own.bases.values()})
            own = pending.pop(key)
            again = known | {base: known[source] for base, source in own.bases.items()}
            writer.repeat(own.nodes, again)
            known[key] = again[own.result]


def find_steps(
    order: Order,
    constants: Constants,
    anchors: Sequence[ir.Node],
    choices: Sequence[Choice] = (),
    *,
    with_slices: bool = False,
) -> Steps:
    """The steps that a chain of anchors numbers; `with_slices`: with read-outs that read sequences, too.

    Raises:
        StepsDifferError: they are not alike.
    """
    walk = Walk(order, constants, anchors, with_slices=with_slices)
    phase = find_phase(walk, [_size(walk.pattern(lane)) for lane in walk.lanes], choices)
    try:
        steps = _Folding(walk, phase).steps
        _check_complete(steps)
        _check_independent(steps, walk.order)
    except StepsDifferError as error:
        raise error.in_chain(phase.num_steps - phase.first, len(anchors)) from error
    return steps


def _size(node: ir.Node) -> int:
    """Number of elements of a node's outputs."""
    return max(1, sum(num_elements(value) for value in node.outputs if value.shape is not None))


def num_elements(value: ir.Value) -> int:
    """An unknown dimension counts as one."""
    return math.prod(dim for dim in value.shape or () if isinstance(dim, int))


class _Folding:
    """From lanes with their own indices to steps: node k of lane i stands in step k + offset[i]."""

    def __init__(self, walk: Walk, phase: Phase) -> None:
        self.walk = walk
        pairs = zip(walk.lanes, phase.offsets, strict=True)
        self.offset = {id(lane): offset - phase.first for lane, offset in pairs}
        num_steps = phase.num_steps - phase.first
        self.steps = Steps(
            num_steps, num_steps - 2, num_lacking=phase.first, made=phase.made, open=phase.open
        )
        lanes = self._folded_lanes()
        for lane in lanes:
            self._add_nodes(lane)
        for lane in lanes:
            self._add_reads(lane)

    def _folded_lanes(self) -> list[Lane]:
        """All lanes but the read-outs that the pattern step lacks, or that read what no first step has, and
        those that read these.
        """
        left_out: set[int] = set()
        for lane in self.walk.lanes:
            is_missing = self._at(lane, self.steps.position) is None or self._lacks_first(lane)
            if lane.is_head and (is_missing or any(id(r.lane) in left_out for r in lane.reads.values())):
                left_out.add(id(lane))
        return [lane for lane in self.walk.lanes if id(lane) not in left_out]

    def _lacks_first(self, lane: Lane) -> bool:
        """Whether a lane reads what steps before gave, and nothing stands for that before the first step."""
        return any(
            read.lane.value(-back - self.offset[id(read.lane)], read.output) is None
            for read in lane.reads.values()
            for back in range(1, self._lag(lane, read) + 1)
        )

    def _lag(self, lane: Lane, read: LaneRead) -> int:
        return read.shift + self.offset[id(lane)] - self.offset[id(read.lane)]

    def _at(self, lane: Lane, step: int) -> ir.Node | None:
        return lane.images.get(step - self.offset[id(lane)])

    def _input(self, lane: Lane, step: int, position: int) -> ir.Value | None:
        node = self._at(lane, step)
        return node.inputs[position] if node is not None else None

    def _lacking(self) -> range:
        """The steps before the first one, which lack operations, the nearest first."""
        return range(-1, -1 - self.steps.num_lacking, -1)

    def _pattern(self, lane: Lane) -> ir.Node:
        node = self._at(lane, self.steps.position)
        if node is None:
            own = self.walk.pattern(lane)
            raise StepsDifferError((), f"{own.op_type} {own.name} is missing in the middle")
        return node

    def _add_nodes(self, lane: Lane) -> None:
        own = self._pattern(lane)
        images = [self._at(lane, step) for step in range(self.steps.num_steps)]
        self.steps.nodes[own] = images
        if lane.is_head:
            self.steps.heads.add(own)
        for index, value in enumerate(own.outputs):
            self.steps.values[value] = [n.outputs[index] if n is not None else None for n in images]
            offset = self.offset[id(lane)]
            self.steps.begun[value] = [lane.value(step - offset, index) for step in self._lacking()]

    def _add_reads(self, lane: Lane) -> None:
        own = self._pattern(lane)
        for position, value in enumerate(own.inputs):
            if value is None:
                continue
            read = lane.reads.get(position)
            if read is None:
                self._add_outside(value, lane, position)
                continue
            for back in range(1, self._lag(lane, read) + 1):
                self._add_state(read.lane, read.output, back)

    def _add_outside(self, key: ir.Value, lane: Lane, position: int) -> None:
        images = [self._input(lane, step, position) for step in range(self.steps.num_steps)]
        earlier = [self._input(lane, step, position) for step in self._lacking()]
        self.steps.outside_earlier.setdefault(key, earlier)
        known = self.steps.outside.setdefault(key, images)
        for step, (old, new) in enumerate(zip(known, images, strict=True)):
            if old is not None and new is not None and not self.walk.constants.same(old, new):
                raise StepsDifferError([step], f"what stands for {key.name} is read differently by two nodes")
            known[step] = old if old is not None else new

    def _add_state(self, lane: Lane, output: int, back: int) -> None:
        """The value that the lane had `back` steps before."""
        offset, position = self.offset[id(lane)], self.steps.position
        images = [lane.value(step - back - offset, output) for step in range(self.steps.num_steps)]
        key = images[position]
        if images[0] is None or key is None:
            own = self._pattern(lane)
            missing = [step for step, image in enumerate(images[: position + 1]) if image is None]
            raise StepsDifferError(missing, f"{own.op_type} {own.name} has no first value")
        if not _same_shape(images[1:]):
            raise StepsDifferError((), f"what it hands on changes its shape, such as {key.name}")
        after = lane.value(position - back + 1 - offset, output)
        assert after is not None
        self.steps.states[key], self.steps.after[key] = images, after
        self.steps.earlier[key] = [lane.value(step - back - offset, output) for step in self._lacking()]


def _same_shape(images: Images) -> bool:
    """Whether values have one shape, as far as it is known."""
    shapes = [v.shape for v in images if v is not None and v.shape is not None]
    if len({len(shape) for shape in shapes}) > 1:
        return False
    return all(len({dim for dim in dims if isinstance(dim, int)}) <= 1 for dims in zip(*shapes, strict=True))


def leave_last_step_out(steps: Steps) -> None:
    """Let the last step be part of what comes behind the steps."""
    steps.num_steps -= 1
    steps.num_left_out += 1
    steps.position = min(steps.position, steps.num_steps - 1)
    for lane in steps.nodes.values():
        del lane[-1]
    for own in (steps.values, steps.states, steps.outside):
        for images in own.values():
            del images[-1]


def leave_heads_out(steps: Steps, values: Collection[ir.Value]) -> None:
    """Leave out the read-outs that read certain values, and those that read these.

    Raises:
        StepsDifferError: nothing is left of some step.
    """
    left, pending = set[ir.Node](), set(values)
    while pending:
        fresh = {node for node in steps.heads - left if pending.intersection(node.inputs)}
        left |= fresh
        pending = {value for node in fresh for value in node.outputs}
    for node in left:
        del steps.nodes[node]
        for value in node.outputs:
            del steps.values[value]
    steps.heads -= left
    read = {value for node in steps.nodes for value in node.inputs}
    steps.outside = {key: images for key, images in steps.outside.items() if key in read}
    empty = [k for k in range(steps.num_steps) if all(images[k] is None for images in steps.nodes.values())]
    if empty or not left:
        raise StepsDifferError(empty, "without what stands beside them nothing is left there")


def _check_independent(steps: Steps, order: Order) -> None:
    """What the steps read from outside, or start from, may depend on none of them.

    Read-outs that read such are left out: they join the steps with others that start from the same products.
    """
    while found := _dependent(steps, order):
        readers = {use.node for key in found for use in key.uses()} & steps.nodes.keys()
        if not readers <= steps.heads or found.keys() & steps.states.keys():
            name = next(iter(found.values())).name
            raise StepsDifferError((), f"they read {name}, which depends on one of them in another way")
        leave_heads_out(steps, found)


def _dependent(steps: Steps, order: Order) -> dict[ir.Value, ir.Value]:
    """What the steps read or start from that depends on one of them, with the first such value."""
    later = order.levels([node for images in steps.nodes.values() for node in images if node is not None])
    read = [*steps.outside.items(), *((key, images[:1]) for key, images in steps.states.items())]
    found = [(key, v) for key, images in read for v in images if v is not None and v.producer() in later]
    return dict(reversed(found))


def _check_complete(steps: Steps) -> None:
    """Only the last steps may lack nodes; they lack what nobody reads."""
    for own, images in steps.nodes.items():
        last = max(step for step, node in enumerate(images) if node is not None)
        missing = [step for step, node in enumerate(images) if node is None and step < last]
        if missing and own not in steps.heads:
            raise StepsDifferError(missing, f"{own.op_type} {own.name} has no counterpart")
