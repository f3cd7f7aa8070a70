"""The same operation at every step of an unrolled recurrence, found by walking all steps side by side."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import onnx_ir as ir

from lsc_graph.canonical.rewiring import inner_graphs
from lsc_graph.recurrence.unrolled.chains import Order
from lsc_graph.recurrence.unrolled.constants import Constants, attributes_of
from lsc_graph.recurrence.unrolled.own_slices import OwnSlices, breaks_off
from lsc_graph.recurrence.unrolled.slices import continues, time_slice

_RADIUS = 2
_ARITHMETIC = frozenset(("Add", "Sub", "Mul", "Div", "Sigmoid", "Tanh", "Relu", "Exp", "Neg"))
_CLIPPING = frozenset(("Clip", "Max", "Min"))
_PICKING = frozenset(("Slice", "Gather", "Split"))
_JOINING = frozenset(("Concat", "SequenceConstruct", "Sum", "Mean", "Max", "Min"))


class StepsDifferError(Exception):
    """The steps are not alike; `steps` says which ones, from 0, and `reason` how."""

    def __init__(self, steps: Sequence[int], reason: str) -> None:
        super().__init__(reason)
        self.steps, self.reason = tuple(steps), reason

    def in_chain(self, num_steps: int, num_uses: int) -> StepsDifferError:
        """The same of the uses that number the steps: fewer, if some were simplified away."""
        ends = {0: 0, num_steps - 1: num_uses - 1}
        inner = num_uses // 2
        return StepsDifferError([ends.get(step, inner) for step in self.steps], self.reason)


@dataclass(eq=False)
class Lane:
    """Nodes that do the same, one per step; index k is that of the anchor for which a node was found.

    Attributes:
        images: the nodes by index.
        starts: per output, values by index that stand for those of nodes which do not exist: first states.
        reads: per input, who computes it; absent for inputs from outside.
        is_head: whether it only reads from the recurrence.
    """

    images: dict[int, ir.Node]
    starts: dict[tuple[int, int], ir.Value] = field(default_factory=dict)
    reads: dict[int, LaneRead] = field(default_factory=dict)
    is_head: bool = False

    def column(self, position: int) -> dict[int, ir.Value | None]:
        """What the nodes read at one input, by index."""
        return {k: node.inputs[position] for k, node in self.images.items()}

    def value(self, index: int, output: int) -> ir.Value | None:
        """An output at one index, or what stands for it."""
        node = self.images.get(index)
        return node.outputs[output] if node is not None else self.starts.get((index, output))


@dataclass(frozen=True)
class LaneRead:
    """Index k of the reader reads output `output` at index k - `shift` of `lane`."""

    lane: Lane
    output: int
    shift: int


class Walk:
    """Finds the lanes that the anchors are computed from, then those that only read from them.

    Args:
        order, constants: of the graph.
        anchors: one node per step.
        with_slices: whether what only reads from them may read slices of sequences, too.
    """

    def __init__(
        self, order: Order, constants: Constants, anchors: Sequence[ir.Node], *, with_slices: bool = False
    ) -> None:
        self.order, self.constants, self.with_slices = order, constants, with_slices
        self.levels = order.levels(anchors)
        self.newest = len(anchors) - 1
        self.where: dict[ir.Node, tuple[Lane, int]] = {}
        self.lanes: list[Lane] = []
        self._pending: list[Lane] = []
        self.anchors = self._new_lane(dict(enumerate(anchors)))
        self._walk()
        self._extend(len(anchors))
        self._read_late()
        self._add_heads()

    def _new_lane(self, images: dict[int, ir.Node], *, is_head: bool = False) -> Lane:
        lane = Lane(images, is_head=is_head)
        self.lanes.append(lane)
        self._pending.append(lane)
        self.where |= {node: (lane, index) for index, node in images.items()}
        return lane

    def _walk(self) -> None:
        while self._pending:
            lane = self._pending.pop()
            for position in range(len(self.pattern(lane).inputs)):
                self._read(lane, position)

    def pattern(self, lane: Lane) -> ir.Node:
        """The node of a lane that the others are compared with."""
        if self.newest in lane.images:
            return lane.images[self.newest]
        return lane.images[sorted(lane.images)[len(lane.images) // 2]]

    def is_inside(self, value: ir.Value) -> bool:
        """Whether a value depends on an anchor."""
        producer = value.producer()
        return producer is not None and producer in self.levels

    @property
    def longest_shift(self) -> int:
        """How many steps a read may reach back."""
        return max((read.shift for lane in self.lanes for read in lane.reads.values()), default=0)

    def _read(self, lane: Lane, position: int) -> None:
        column = lane.column(position)
        present = {k: value for k, value in column.items() if value is not None}
        if len(present) not in (0, len(column)):
            raise StepsDifferError([k for k in column if k not in present], "one step has an input less")
        inside = {k: value for k, value in present.items() if self.is_inside(value)}
        index = self._index_of(self.pattern(lane))
        if index not in inside:
            late = [k for k in inside if k != index]
            self._check(late, f"what stands for {self._name(lane, position)} there depends on the recurrence")
            return
        own = inside[index].producer()
        assert own is not None
        if own not in self.where and not self._join(own, index, inside):
            self._new_lane({index: own})
        producers, own_index = self.where[own]
        read = LaneRead(producers, inside[index].index() or 0, index - own_index)
        lane.reads[position] = read
        self._match(read, present, self._name(lane, position))

    def _join(self, own: ir.Node, index: int, column: Mapping[int, ir.Value]) -> bool:
        """Let a node be part of the lane of its counterparts, where these were met on a longer way round."""
        known = [(k, self.where[node]) for k, v in column.items() if (node := v.producer()) in self.where]
        places = {(id(lane), at - k): (lane, at - k) for k, (lane, at) in known}
        if len(places) != 1:
            return False
        ((lane, ahead),) = places.values()
        if index + ahead in lane.images or not is_alike(own, self.pattern(lane)):
            return False
        lane.images[index + ahead] = own
        self.where[own] = (lane, index + ahead)
        self._pending.append(lane)
        return True

    def _index_of(self, node: ir.Node) -> int:
        return self.where[node][1]

    def _match(self, read: LaneRead, column: Mapping[int, ir.Value], name: str) -> None:
        """Every node of the reader has to read from the lane, or from a start."""
        lane, own, is_longer = read.lane, self.pattern(read.lane), False
        for k, value in sorted(column.items()):
            node = value.producer()
            if not self.is_inside(value) or node is None:
                is_longer |= self._start(read, k, value, name)
                continue
            self._check([k] * (value.index() != read.output), f"{name} is read at another output there")
            self._check([k] * (not is_alike(node, own)), f"{own.op_type} {own.name} has no counterpart there")
            known = self.where.get(node)
            if known is None:
                taken = lane.images.get(k - read.shift)
                self._check([k] * (taken is not None), f"{own.op_type} {own.name} has two counterparts there")
                lane.images[k - read.shift] = node
                self.where[node] = (lane, k - read.shift)
                is_longer = True
            elif known != (lane, k - read.shift):
                raise StepsDifferError([k], f"{name} is read from another step than elsewhere")
        if is_longer:
            self._pending.append(lane)

    def _start(self, read: LaneRead, k: int, value: ir.Value, name: str) -> bool:
        """A first value; where it is computed as the later ones are, the lane is longer by that node."""
        lane, index, node = read.lane, k - read.shift, value.producer()
        if node is not None and node in self.where and not self._is_of_several_steps(node, lane, index):
            return False
        is_same = node in self.order.index and value.index() == read.output
        is_free = index not in lane.images and (index, read.output) not in lane.starts
        if node is not None and is_same and is_free and is_alike(node, self.pattern(lane)):
            lane.images[index] = node
            self.where[node] = (lane, index)
            return True
        known = lane.starts.setdefault((index, read.output), value)
        self._check([k] * (not self.constants.same(known, value)), f"{name} starts from two different values")
        return False

    def _is_of_several_steps(self, node: ir.Node, lane: Lane, index: int) -> bool:
        """Whether a node of a lane stands for a start at another index too, as that of two equal states.

        Then it is none of the lane's nodes: the steps start from what it gives.
        """
        known, other = self.where[node]
        if known is not lane or other == index:
            return False
        del self.where[node], lane.images[other]
        lane.starts |= {(i, value.index() or 0): value for i in (other, index) for value in node.outputs}
        return True

    def _check(self, steps: Sequence[int], reason: str) -> None:
        if steps:
            raise StepsDifferError(steps, reason)

    def _name(self, lane: Lane, position: int) -> str:
        value = self.pattern(lane).inputs[position]
        return str(value.name) if value is not None else f"input {position} of {self.pattern(lane).name}"

    def _extend(self, num_steps: int) -> None:
        """What the last steps compute after their anchors, found forward.

        A node that may stand for several others is first tried as that which is read as it is. The last state
        may be read by others too.
        """
        limit = num_steps + max(1, self.longest_shift - 1)
        while any(self._extend_by(limit, among) for among in (None, _ARITHMETIC, frozenset[str]())):
            pass

    def _extend_by(self, limit: int, among: Collection[str] | None) -> bool:
        """Make lanes longer, or one if only some readers count."""
        is_longer = False
        for lane in self.lanes:
            k = max(lane.images) + 1
            image = self._next_image(lane, k, among) if k <= limit else None
            is_free = image is not None and image not in self.where and not self._is_read_out(lane, k, image)
            if image is not None and is_free and self._is_next(lane, k, image):
                lane.images[k] = image
                self.where[image] = (lane, k)
                is_longer = True
                if among is not None:
                    break
        return is_longer

    def _read_late(self) -> None:
        """Who computes what only the nodes that lanes were made longer by read of the steps.

        Where steps reach far back, those before read what the first ones gave, which depends on no anchor.
        """
        for lane in self.lanes:
            for position in set(range(len(self.pattern(lane).inputs))) - lane.reads.keys():
                column = {k: value for k, value in lane.column(position).items() if value is not None}
                if not any(self.is_inside(value) for value in column.values()):
                    continue
                places = [
                    (k, v, self.where[n]) for k, v in column.items() if (n := v.producer()) in self.where
                ]
                found = {(id(own), v.index() or 0, k - at): (own, k - at) for k, v, (own, at) in places}
                if len(found) == 1:
                    (((_, output, _), (own, shift)),) = found.items()
                    lane.reads[position] = LaneRead(own, output, shift)
                    self._match(lane.reads[position], column, self._name(lane, position))
        self._walk()

    def _is_read_out(self, lane: Lane, k: int, image: ir.Node) -> bool:
        """Whether a node is what another one was a step before that does the same as the lane's, for other
        readers: without that merging, a read-out is beside what the next step computes again.
        """
        before = lane.images[k - 1]
        value = next((v for v in before.inputs if v is not None and v not in self.constants), None)
        others = [use.node for use in value.uses() if use.node not in self.where] if value is not None else []
        twins = [node for node in others if is_alike(node, before) and self._reads_the_same(node, before)]
        return not self._is_read_as(image, before) and any(self._is_read_as(image, own) for own in twins)

    def _reads_the_same(self, node: ir.Node, other: ir.Node) -> bool:
        pairs = zip(node.inputs, other.inputs, strict=True)
        return all(
            a is b or (a is not None and b is not None and self.constants.same(a, b)) for a, b in pairs
        )

    def _is_read_as(self, node: ir.Node, other: ir.Node) -> bool:
        """Whether whatever reads a node reads the other one by the same weights, too."""
        return self._readings(node) <= self._readings(other)

    def _readings(self, node: ir.Node) -> set[Hashable]:
        known = self.constants
        return {
            (
                use.idx,
                use.node.op_type,
                *(known.key(v) for v in use.node.inputs if v is not None and known.is_weight(v)),
            )
            for use in node.outputs[0].uses()
        }

    def _next_image(self, lane: Lane, k: int, among: Collection[str] | None) -> ir.Node | None:
        own = self.pattern(lane)
        for position, read in lane.reads.items():
            value = read.lane.value(k - read.shift, read.output)
            if value is not None:
                shift = k - self._index_of(own)
                image = self._head_image(own, position, value, shift, self._varying(lane), among)
                return image if image is not None and self._continues(lane, k, image) else None
        return None

    def _is_next(self, lane: Lane, k: int, image: ir.Node) -> bool:
        """Whether a node reads what follows in the sequences that a lane has read so far, or the like of it.

        What else is done to a last state reads other sequences, at the time of the last step.
        """
        ends = {index: lane.images[index] for index in (min(lane.images), max(lane.images))}
        for position, value in enumerate(image.inputs):
            if position not in lane.reads and value is not None:
                earlier = {i: v for i, node in ends.items() if (v := node.inputs[position]) is not None}
                if not continues(earlier, k, value, self.constants):
                    return self._reads_the_like(image, self.pattern(lane))
        return True

    def _continues(self, lane: Lane, k: int, image: ir.Node) -> bool:
        """Whether a node reads the slices that come next, where a lane reads slices, by the same weights.

        Where each of its nodes reads them by weights of its own, so does the next one.
        """
        own = self.pattern(lane)
        outside = [i for i in range(len(image.inputs)) if i not in lane.reads]
        apart = [i for i in outside if self._is_projected_apart(own.inputs[i], image.inputs[i])]
        others = [node for node in lane.images.values() if node is not own]
        if not all(any(self._is_projected_apart(own.inputs[i], n.inputs[i]) for n in others) for i in apart):
            return False
        columns = [lane.column(position) | {k: image.inputs[position]} for position in outside]
        return not any(breaks_off(column, k, self.constants) for column in columns)

    def _is_projected_apart(self, one: ir.Value | None, two: ir.Value | None, radius: int = _RADIUS) -> bool:
        """Whether values are computed alike, but by other matrices, some operators far."""
        if one is None or two is None or one is two:
            return False
        if one in self.constants and two in self.constants:
            return self.constants.is_matrix(one) and not self.constants.same(one, two)
        first, second = one.producer(), two.producer()
        if radius == 0 or first is None or second is None or not is_alike(first, second):
            return False
        pairs = zip(first.inputs, second.inputs, strict=True)
        return any(self._is_projected_apart(*pair, radius - 1) for pair in pairs)

    def _add_heads(self) -> None:
        """Lanes of nodes that are applied to the values of all steps alike: read-outs."""
        pending = list(self.lanes)
        while pending:
            lane = pending.pop()
            for node in self._possible_heads(lane):
                images = self._head(node)
                if images:
                    head = self._new_lane(images, is_head=True)
                    self._walk()
                    pending.append(head)

    def _possible_heads(self, lane: Lane) -> list[ir.Node]:
        """What reads a lane: seen from a step before the last, of which readers may have been left out."""
        own = self.pattern(lane)
        inner = lane.images.get(self._index_of(own) - 1)
        readers = list(_readers(own))
        return [*_readers(inner), *readers] if inner is not None and self.with_slices else readers

    def _head(self, node: ir.Node) -> dict[int, ir.Node]:
        """The images of a node that reads nothing but lanes and constants; none if it is no read-out."""
        is_joining = node.op_type == "SequenceConstruct" or _is_join_over_steps(node, self)
        if node in self.where or node not in self.order.index or is_joining or inner_graphs(node):
            return {}
        moving = [(i, v) for i, v in enumerate(node.inputs) if v is not None and v not in self.constants]
        own = [(i, v) for i, v in moving if v.producer() in self.where]
        others = [(i, v) for i, v in moving if v.producer() not in self.where]
        if not own or (others and not self.with_slices) or any(self.is_inside(v) for _, v in others):
            return {}
        first, value = own[0]
        lane, _ = self.where[_producer(value)]
        for among in (frozenset[str](), _ARITHMETIC):
            found = self._images_of_head(node, first, value, among)
            is_whole = len(set(found.values())) == len(found) >= len(lane.images) - 2 and _is_run(found)
            columns = [{k: image.inputs[i] for k, image in found.items()} for i, _ in others]
            if is_whole and all(self._own_slices.are(column) for column in columns):
                return found
        return {}

    def _images_of_head(
        self, node: ir.Node, first: int, value: ir.Value, among: Collection[str]
    ) -> dict[int, ir.Node]:
        """What is applied to a value at all steps.

        Like the others is what reads of `among` are its readers; the last one may have others.
        """
        lane, index = self.where[_producer(value)]
        values, found = self._all_values(lane, value.index() or 0), dict[int, ir.Node]()
        for k, image in values.items():
            asked = among if k == max(values) else _ARITHMETIC
            counterpart = self._head_image(node, first, image, k - index, among=asked)
            if counterpart is not None:
                found[k] = counterpart
        return found

    def _all_values(self, lane: Lane, output: int) -> dict[int, ir.Value]:
        """What a lane gives, and what its first readers start from."""
        found = {k: node.outputs[output] for k, node in lane.images.items()}
        if self.with_slices:
            starts = {k: v for (k, index), v in lane.starts.items() if index == output}
            found |= {k: value for k, value in starts.items() if value not in self.constants}
        return found

    @cached_property
    def _own_slices(self) -> OwnSlices:
        read = [
            value
            for lane in self.lanes
            for position in range(len(self.pattern(lane).inputs))
            if position not in lane.reads and not lane.is_head
            for value in lane.column(position).values()
            if value is not None
        ]
        return OwnSlices(read, self.order, self.constants)

    def _head_image(
        self,
        own: ir.Node,
        first: int,
        value: ir.Value,
        shift: int,
        varying: Collection[int] = (),
        among: Collection[str] | None = _ARITHMETIC,
    ) -> ir.Node | None:
        """The node that does `shift` steps later, to `value`, what `own` does; inputs `varying` are constants
        of each step's own.
        """
        found = [
            use.node
            for use in value.uses()
            if use.idx == first and use.node in self.order.index and use.node not in self.where
            and is_alike(use.node, own)
            and all(
                self._is_image(mine, other, shift, varies=position in varying)
                for position, (mine, other) in enumerate(zip(own.inputs, use.node.inputs, strict=True))
            )
        ]  # fmt: skip
        alike = [node for node in dict.fromkeys(found) if resembles(node, own, among=among)]
        if len(alike) > 1:
            alike = [node for node in alike if resembles(node, own, among=None)]
        if len(alike) > 1:
            alike = [node for node in alike if self._reads_the_like(node, own)]
        return alike[0] if len(alike) == 1 else None

    def _reads_the_like(self, node: ir.Node, own: ir.Node, radius: int = _RADIUS + 1) -> bool:
        """Whether what a node reads from outside is computed as what its pattern reads, some operators far.

        Two gates may add one product to slices of different sequences. The range that quantised values are
        clipped to is each step's own.
        """
        may_differ = own.op_type in _CLIPPING
        pairs = [
            (one, two)
            for one, two in zip(node.inputs, own.inputs, strict=True)
            if one is not None and not (one is two or (may_differ and self.constants.alike(one, two)))
        ]
        # Slices of a sequence differ from step to step; where a gate lies in what holds several does not.
        picks = own.op_type in _PICKING and node.inputs[0] is own.inputs[0]
        return all(self._is_of_kind(one, two, radius, picks=picks) for one, two in pairs)

    def _is_of_kind(self, value: ir.Value, other: ir.Value | None, radius: int, *, picks: bool) -> bool:
        if other is None or self.is_inside(value):
            return other is not None
        if value in self.constants or other in self.constants:
            return picks or self.constants.same(value, other)
        node, own = value.producer(), other.producer()
        if node is not None and (node is own or radius == 0):
            return value is other or node is not own or node.op_type in _PICKING
        if own is not None and self._is_join_of_more(value, own):
            return True
        return (
            node is not None
            and own is not None
            and (node.op_type, node.domain, len(node.inputs)) == (own.op_type, own.domain, len(own.inputs))
            and value.index() == other.index()
            and self._reads_the_like(node, own, radius - 1)
        )

    def _is_join_of_more(self, value: ir.Value, join: ir.Node) -> bool:
        """Whether a value joins what a node joins, and more: all that there is so far, or is at the end."""
        node, count = value.producer(), len(join.inputs)
        if join.op_type != "Concat":
            return False
        if node is not None and node.op_type == "Concat" and len(node.inputs) > count:
            return tuple(node.inputs[:count]) == tuple(join.inputs)
        slices = [time_slice(v, self.constants) if v is not None else None for v in join.inputs]
        return all(one is not None and one.source is value for one in slices)

    def _varying(self, lane: Lane) -> list[int]:
        """The inputs at which a lane's nodes read different constants."""
        own = self.pattern(lane)
        return [
            position
            for position, value in enumerate(own.inputs)
            if value is not None
            and value in self.constants
            and not all(
                v is not None and self.constants.same(v, value) for v in lane.column(position).values()
            )
        ]

    def _is_image(self, own: ir.Value | None, other: ir.Value | None, shift: int, *, varies: bool) -> bool:
        """Whether what `other` is at a step `shift` later is what `own` is."""
        if own is None or other is None:
            return own is other
        if own in self.constants:
            return self.constants.alike(own, other) if varies else self.constants.same(own, other)
        producer = own.producer()
        if producer is None or producer not in self.where:
            return other in self.constants or not self.is_inside(other)
        lane, index = self.where[producer]
        return lane.value(index + shift, own.index() or 0) is other


def _is_run(indices: Collection[int]) -> bool:
    """Whether no index between the first and the last is left out."""
    return bool(indices) and max(indices) - min(indices) + 1 == len(indices)


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node


def _readers(node: ir.Node) -> Iterator[ir.Node]:
    return iter(dict.fromkeys(use.node for value in node.outputs for use in value.uses()))


def _is_join_over_steps(node: ir.Node, walk: Walk) -> bool:
    """Whether a node reads the same lane at several steps: it joins them."""
    found = [walk.where.get(p) for v in node.inputs if v is not None and (p := v.producer()) is not None]
    lanes = [id(place[0]) for place in found if place is not None]
    return len(set(lanes)) < len(lanes) and node.op_type in _JOINING


def resembles(
    node: ir.Node, own: ir.Node, radius: int = _RADIUS, among: Collection[str] | None = _ARITHMETIC
) -> bool:
    """Whether whatever reads a node reads its pattern too, a few operators far; only some operators count.

    The last step may lack readers, but has no others; that tells equal computations apart.
    """
    if radius == 0:
        return True
    readers = [(use.idx, use.node) for use in own.outputs[0].uses()]
    return all(
        any(
            use.idx == index and is_alike(use.node, reader) and resembles(use.node, reader, radius - 1, among)
            for index, reader in readers
        )
        for use in node.outputs[0].uses()
        if among is None or use.node.op_type in among
    )


def is_alike(first: ir.Node, second: ir.Node) -> bool:
    """Whether two nodes apply the same operator with the same attributes."""
    return first is second or (
        first.op_type == second.op_type
        and first.domain == second.domain
        and len(first.inputs) == len(second.inputs)
        and len(first.outputs) == len(second.outputs)
        and not inner_graphs(first)
        and attributes_of(first) == attributes_of(second)
    )
