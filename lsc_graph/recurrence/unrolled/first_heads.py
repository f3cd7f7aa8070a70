"""Read-outs of the first steps, found once it is known what states these start from."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.evaluate import evaluate
from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.unrolled.before_loops import start_of
from lsc_graph.recurrence.unrolled.chains import Order
from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.recurrence.unrolled.lanes import is_alike
from lsc_graph.recurrence.unrolled.reads import Reads, nodes_before
from lsc_graph.recurrence.unrolled.slices import time_slice
from lsc_graph.recurrence.unrolled.steps import Steps

_MAX_DEPTH = 200


def find_first_heads(steps: Steps, reads: Reads, order: Order, constants: Constants) -> None:
    """Find the read-outs of steps that were not known when the others were found, or that read constants.

    Those that only other read-outs read stay where they are: two recurrences from zeros may share them.
    """
    heads = sorted(steps.heads, key=order.index.__getitem__)
    first = max((_first(steps.nodes[own]) for own in heads), default=0)
    before = nodes_before(steps, reads) if first else set[ir.Node]()
    for step in range(first):
        at_step = _AtStep(steps, reads, order, constants, step, before)
        for own in heads:
            node = None if steps.nodes[own][step] is not None else at_step.counterpart(own)
            if node is not None and any(_is_read_outside(value, steps) for value in own.outputs):
                steps.nodes[own][step] = node
                for value, image in zip(own.outputs, node.outputs, strict=True):
                    steps.values[value][step] = image


def _is_read_outside(value: ir.Value, steps: Steps) -> bool:
    return value.is_graph_output() or any(use.node not in steps.nodes for use in value.uses())


def _first(images: list[ir.Node | None]) -> int:
    return next(step for step, node in enumerate(images) if node is not None)


class _AtStep:
    """What stands at one step for what the pattern step computes and reads.

    `excluded` are nodes that are no step's.
    """

    def __init__(
        self,
        steps: Steps,
        reads: Reads,
        order: Order,
        constants: Constants,
        step: int,
        excluded: Collection[ir.Node],
    ) -> None:
        self.steps, self.reads, self.order, self.constants = steps, reads, order, constants
        self.step = step
        self._taken = {node for images in steps.nodes.values() for node in images}.union(excluded)
        self._found: dict[ir.Value, ir.Value] = {}
        self._arrays: dict[ir.Value, np.ndarray | None] = {}

    def counterpart(self, own: ir.Node) -> ir.Node | None:
        """The node that does here what `own` does in its own step, by all that it reads.

        Of several any one will do: they compute the same.
        """
        found = (n for n in self._candidates(own) if n not in self._taken and self._does(own, n, 0))
        node = next(found, None)
        if node is not None:
            self._taken.add(node)
            self._found |= zip(own.outputs, node.outputs, strict=True)
        return node

    def _candidates(self, own: ir.Node) -> Iterator[ir.Node]:
        """The nodes that read what stands here for one of the inputs; all of the kind, if none moves."""
        values = [self._image(value) for value in own.inputs if value is not None]
        known = [value for value in values if value is not None]
        moving = next((value for value in known if self.constants.array(value) is None), None)
        if moving is not None:
            yield from (use.node for use in moving.uses() if use.node in self.order.index)
        else:
            yield from (node for node in self.order.nodes if node.op_type == own.op_type)

    def _image(self, value: ir.Value) -> ir.Value | None:
        """What stands here for a value that the step computes or takes over."""
        if value in self._found:
            return self._found[value]
        is_known = value in self.steps.values or value in self.steps.states
        return self.steps.standing(value, self.step) if is_known else None

    def _does(self, own: ir.Node, node: ir.Node, depth: int) -> bool:
        return is_alike(own, node) and all(
            self._is(mine, other, depth) for mine, other in zip(own.inputs, node.inputs, strict=True)
        )

    def _is(self, own: ir.Value | None, other: ir.Value | None, depth: int) -> bool:
        """Whether `other` is here what `own` is in the pattern step."""
        if own is None or other is None or depth > _MAX_DEPTH:
            return own is other
        if own in self.steps.values or own in self.steps.states:
            image = self._image(own)
            is_folded = image is None and other in self.constants and self._is_folded(own, other)
            return is_folded or self._equal(image, other)
        if own in self.reads.slices:
            return self._is_slice(own, other)
        if own in self.reads.stacks:
            return self._equal(self.reads.stacks[own][self.step], other)
        if own in self.reads.captures:
            return self._equal(own, other)
        if other in self.constants:
            return self._is_folded(own, other)
        first, second = own.producer(), other.producer()
        is_done = first is not None and second is not None and self._does(first, second, depth + 1)
        return is_done or (first is not None and self._adds_nothing(first, other, depth + 1))

    def _adds_nothing(self, own: ir.Node, other: ir.Value, depth: int) -> bool:
        """Whether `own` adds zeros here to what `other` is: an exporter leaves that out."""
        if own.op_type != "Add" or static_shape(own.outputs[0]) != static_shape(other):
            return False
        arrays = [self._array(value) for value in own.inputs]
        rest = [
            value
            for value, added in zip(own.inputs, reversed(arrays), strict=True)
            if added is not None and not added.any()
        ]
        return any(self._is(value, other, depth) for value in rest)

    def _is_folded(self, own: ir.Value, other: ir.Value) -> bool:
        """Whether a constant is what the step computes here from others, as from zeros before a sequence."""
        one, two = self._array(own), self.constants.array(other)
        return one is not None and two is not None and one.dtype == two.dtype and np.array_equal(one, two)

    def _array(self, own: ir.Value | None) -> np.ndarray | None:
        """What the step reads or computes here, if that is constant."""
        if own is None:
            return None
        if own not in self._arrays:
            self._arrays[own] = self._constant(own)
        return self._arrays[own]

    def _constant(self, own: ir.Value) -> np.ndarray | None:
        image = self._image(own)
        if image is not None or own in self.steps.states:
            return self.constants.array(image) if image is not None else None
        if own in self.reads.slices:
            row = start_of(self.reads.slices[own], self.step)
            return self.constants.array(row) if row is not None else None
        if own in self.reads.stacks:
            return self.constants.array(self.reads.stacks[own][self.step])
        node, held = own.producer(), self.constants.array(self.reads.captures.get(own, own))
        if held is not None or node is None or node.graph is None:
            return held
        arrays = [self._array(value) for value in node.inputs]
        if any(array is None for array in arrays):
            return None
        found = evaluate(node, arrays, node.graph.opset_imports.get("", 0))
        return found[own.index() or 0] if found is not None else None

    def _is_slice(self, own: ir.Value, other: ir.Value) -> bool:
        if other in self.constants:
            return self._is_folded(own, other)
        slices, taken = self.reads.slices[own], time_slice(other, self.constants)
        place = (slices.source, slices.axis, slices.keeps_axis, slices.indices[self.step])
        return taken is not None and place == (taken.source, taken.axis, taken.keeps_axis, taken.index)

    def _equal(self, value: ir.Value | None, other: ir.Value) -> bool:
        """Whether values hold the same; a start may be a constant that is not part of the graph yet."""
        if value is None or value is other:
            return value is not None
        one, two = self.constants.array(value), self.constants.array(other)
        if one is None or two is None:
            return self.constants.same(value, other)
        return one.dtype == two.dtype and np.array_equal(one, two)
