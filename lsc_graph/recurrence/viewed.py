"""Packed states that steps give another shape or order before they take them apart.

A step reads all of its state through one Reshape or Transpose, and writes it through the opposite:
then the state is carried as the step sees it, in which its parts lie side by side along an axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.dataflow import RESHAPING, original
from lsc_graph.running.reference import Array


@dataclass(frozen=True)
class View:
    """A value in another order of axes, or, where there is none, in another shape."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    perm: tuple[int, ...] = ()

    def of(self, value: Array) -> Array:
        """The value as it is seen."""
        return np.transpose(value, self.perm) if self.perm else np.reshape(value, self.after)

    @property
    def undone(self) -> View:
        """What gives the value its own shape and order back."""
        return View(self.after, self.before, tuple(int(axis) for axis in np.argsort(self.perm)))


@dataclass(frozen=True)
class Seen:
    """A state as all of its readers see it: the graph's input and the value that is written, in that view."""

    view: View
    before: ir.Value
    after: ir.Value
    readers: tuple[ir.Node, ...]

    def keep(self) -> None:
        """Remove what gave the state that view."""
        for node in self.readers:
            _graph_of(node).remove(node, safe=True)

    def undo(self) -> None:
        """Let the graph read the state as it did."""
        first = self.readers[0]
        graph, state = _graph_of(first), first.inputs[0]
        assert state is not None
        ir.convenience.replace_all_uses_with(self.before, first.outputs[0])
        graph.inputs[graph.inputs.index(self.before)] = state


def seen_otherwise(graph: ir.Graph, before: ir.Value, after: ir.Value) -> Seen | None:
    """How all readers of a state see it; None if they do not see it alike, or it is not written so.

    The graph then reads it so, until that is undone.
    """
    readers = [use.node for use in before.uses() if use.idx == 0]
    views = {_view(node) for node in readers}
    view = next(iter(views), None)
    if len(views) != 1 or view is None or len(readers) < len(list(before.uses())) or before in graph.outputs:
        return None
    if any(node.graph is not graph or node.outputs[0].is_graph_output() for node in readers):
        return None
    written = _Writing(graph, f"{after.name}.seen").seen(after, view)
    if written is None:
        return None
    old = ir.val(f"{before.name}.seen", dtype=before.dtype, shape=list(view.after))
    graph.inputs[graph.inputs.index(before)] = old
    for node in readers:
        ir.convenience.replace_all_uses_with(node.outputs[0], old)
    return Seen(view, old, written, tuple(readers))


def _graph_of(node: ir.Node) -> ir.Graph:
    assert isinstance(node.graph, ir.Graph)
    return node.graph


def _view(node: ir.Node) -> View | None:
    """The view that a node makes of its input."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in RESHAPING | {"Transpose"}:
        return None
    before, after = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    if before is None or after is None:
        return None
    if node.op_type != "Transpose":
        return View(tuple(before), tuple(after))
    perm = node.attributes.get_ints("perm", []) or range(len(before))[::-1]
    return View(tuple(before), tuple(after), tuple(perm))


class _Writing:
    """What a step writes, in another view, where that is a concatenation again."""

    def __init__(self, graph: ir.Graph, name: str) -> None:
        self.graph, self.name, self.count = graph, name, 0

    def seen(self, value: ir.Value, view: View) -> ir.Value | None:
        value = original(value)
        node = value.producer()
        if node is None or tuple(static_shape(value) or ()) != view.before:
            return None
        if node.op_type == "Concat":
            return self._joined(node, view)
        own, source = _view(node), node.inputs[0] if node.inputs else None
        if own is None or source is None:
            return None
        if view.undone == own:
            return source
        return None if view.perm or own.perm else self.seen(source, View(own.before, view.after))

    def _joined(self, concat: ir.Node, view: View) -> ir.Value | None:
        """The concatenation of its parts in that view."""
        axis = concat.attributes.get_int("axis", 0) % len(view.before)
        shapes = [static_shape(part) for part in concat.inputs]
        found = _parts([tuple(shape) for shape in shapes if shape is not None], axis, view)
        if found is None or len(shapes) != len(found[1]):
            return None
        parts = [
            self._node("Transpose", [part], own.after, perm=list(own.perm))
            if own.perm
            else self._shaped(part, own)
            for part, own in zip(concat.inputs, found[1], strict=True)
        ]
        return self._node("Concat", parts, view.after, axis=found[0])

    def _shaped(self, part: ir.Value | None, view: View) -> ir.Value:
        array = np.array(view.after, dtype=np.int64)
        name = f"{self.name}.{self.count}.shape"
        shape = ir.val(name, const_value=ir.tensor(array, name=name), shape=[len(array)])
        self.graph.register_initializer(shape)
        return self._node("Reshape", [part, shape], view.after)

    def _node(
        self,
        op: str,
        operands: Sequence[ir.Value | None],
        shape: tuple[int, ...],
        **attributes: int | list[int],
    ) -> ir.Value:
        node = ir.node(op, operands, attributes, name=f"{self.name}.{self.count}")
        self.count += 1
        value, source = node.outputs[0], operands[0]
        assert source is not None
        value.name, value.type, value.shape = node.name, source.type, ir.Shape(shape)
        self.graph.append(node)
        return value


def _parts(shapes: list[tuple[int, ...]], axis: int, view: View) -> tuple[int, list[View]] | None:
    """The axis along which the parts of a concatenation lie in a view, and the view of each of them."""
    if view.perm:
        seen = [View(own, tuple(own[i] for i in view.perm), view.perm) for own in shapes]
        return view.perm.index(axis), seen
    leading = math.prod(view.before[:axis])
    for at in range(len(view.after)):
        unit = leading * math.prod(view.after[at + 1 :])
        sizes = [math.prod(own) for own in shapes]
        if math.prod(view.after[:at]) == leading and all(size % unit == 0 for size in sizes):
            cut = [(*view.after[:at], size // unit, *view.after[at + 1 :]) for size in sizes]
            return at, [View(own, after) for own, after in zip(shapes, cut, strict=True)]
    return None
