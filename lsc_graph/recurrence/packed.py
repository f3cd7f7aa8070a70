"""Packed states: one tensor that holds several state variables, such as [2, B, H] for h and c.

The output is seen to be a concatenation; if every reader of the input takes a piece of it, the input
is replaced by one input per piece, and the pieces become state variables of their own. They may be packed
again: the states of two LSTMs as [1, 2, H, 2]. A shift register is packed whoever reads it: its places move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.registers import origin, register_axis
from lsc_graph.recurrence.viewed import View, seen_otherwise
from lsc_graph.running.reference import Array

_MAX_DEPTH = 8
_ELEMENTWISE = frozenset(("Add", "Sub", "Mul", "Div", "Cast", "Identity", "Neg", "Clip", "Max", "Min"))


@dataclass(frozen=True)
class Piece:
    """A state variable: the graph input that it is read from, the value that is written for it, and where in
    the packed state it lies, as (axis, start, end), or that it is first seen in another shape or order.
    """

    before: str
    after: str
    place: tuple[tuple[int, int, int] | View, ...] = ()

    def of(self, packed: Array) -> Array:
        """The piece of a packed value."""
        for own in self.place:
            if isinstance(own, View):
                packed = own.of(packed)
            else:
                packed = np.take(packed, range(own[1], own[2]), own[0])
        return packed


def unpack(graph: ir.Graph, before: ir.Value, after: ir.Value) -> tuple[Piece, ...]:
    """Split a packed state in place, in front of every reader, as far as it is packed.

    The packed output stays an output of the graph; the packed input is removed from its inputs. A state that
    is not packed is a single piece, and nothing changes.
    """
    split = _places(graph, before, after) or _split(graph, before, after)
    if split is None:
        return _seen_apart(graph, before, after) or (Piece(str(before.name), str(after.name)),)
    axis, offsets, pairs = split
    return tuple(
        Piece(inner.before, inner.after, ((axis, start, end), *inner.place))
        for (old, new), start, end in zip(pairs, offsets[:-1], offsets[1:], strict=True)
        for inner in unpack(graph, old, new)
    )


def _seen_apart(graph: ir.Graph, before: ir.Value, after: ir.Value) -> tuple[Piece, ...]:
    """The pieces of a state that comes apart as its readers see it; none if it does not."""
    seen = seen_otherwise(graph, before, after)
    if seen is None:
        return ()
    pieces = unpack(graph, seen.before, seen.after)
    if len(pieces) == 1:
        seen.undo()
        return ()
    seen.keep()
    return tuple(replace(own, place=(seen.view, *own.place)) for own in pieces)


def _places(
    graph: ir.Graph, before: ir.Value, after: ir.Value
) -> tuple[int, list[int], list[tuple[ir.Value, ir.Value]]] | None:
    """The same of a shift register, whose places are joined again for those who read several of them."""
    axis = register_axis(before, after)
    if axis is None:
        return None
    size = (static_shape(before) or ())[axis]
    origins = [origin(after, axis, place) for place in range(size)]
    pieces = [_new_input(before, axis, 1, index) for index in range(size)]
    whole = ir.node("Concat", pieces, {"axis": axis}, name=f"{before.name}.whole")
    joined = whole.outputs[0]
    joined.name, joined.type, joined.shape = f"{before.name}.whole", before.type, before.shape
    ir.convenience.replace_all_uses_with(before, joined, replace_graph_outputs=True)
    position = graph.inputs.index(before)
    graph.inputs[position : position + 1] = pieces
    graph.insert_before(graph[0], whole)
    written = []
    for place, (source, index) in enumerate(origins):
        value = pieces[index] if source is before else _place(graph, source, axis, index)
        written.append(_named(graph, value, f"{after.name}.{place}"))
    return axis, list(range(size + 1)), list(zip(pieces, written, strict=True))


def _place(graph: ir.Graph, source: ir.Value, axis: int, index: int) -> ir.Value:
    """One place along an axis of a value."""
    if (static_shape(source) or ())[axis] == 1:
        return source
    name = f"{source.name}.place{index}"
    bounds = [_integer(graph, f"{name}.{i}", bound) for i, bound in enumerate((index, index + 1, axis))]
    node = ir.node("Slice", [source, *bounds], name=name)
    node.outputs[0].name, node.outputs[0].type = name, source.type
    node.outputs[0].shape = _with_size(source, axis, 1)
    graph.append(node)
    return node.outputs[0]


def _split(
    graph: ir.Graph, before: ir.Value, after: ir.Value
) -> tuple[int, list[int], list[tuple[ir.Value, ir.Value]]] | None:
    """The axis, the offsets along it, what is read and written for each piece; None if it is not packed."""
    found = _concatenation(after)
    if found is None:
        return None
    axis, sizes = found
    offsets = [0, *accumulate(sizes)]
    for node in before.consumers():
        if node.op_type == "Split":
            _slices_for_split(graph, node, axis)
    for use in list(before.uses()):
        if use.idx == 0:
            _take_along_first(graph, use.node, axis)
    readers = [_reader(use.node, use.idx, axis, offsets) for use in before.uses()]
    if before in graph.outputs or any(reader is None for reader in readers):
        return None
    pieces = [_new_input(before, axis, size, index) for index, size in enumerate(sizes)]
    for reader in readers:
        assert reader is not None
        reader.rewire(pieces)
    position = graph.inputs.index(before)
    graph.inputs[position : position + 1] = pieces
    written = [_named(graph, v, f"{after.name}.{i}") for i, v in enumerate(_distribute(graph, after, axis))]
    return axis, offsets, list(zip(pieces, written, strict=True))


def _take_along_first(graph: ir.Graph, node: ir.Node, axis: int) -> None:
    """Let a row of a row, the first one along an axis of size 1, be the same row of a row along `axis`."""
    first = _row(node)
    if first is None or first[0] == axis:
        return
    dropped, _ = first
    source, taken = node.inputs[0], node.outputs[0]
    shape = static_shape(source)
    if source is None or shape is None or shape[dropped] != 1 or taken.is_graph_output():
        return
    inner = [(use.node, _row(use.node)) for use in taken.uses() if use.idx == 0]
    wanted = axis - (dropped < axis)
    if len(inner) < len(list(taken.uses())) or any(row is None or row[0] != wanted for _, row in inner):
        return
    for reader, _ in inner:
        outer = ir.node("Gather", [source, reader.inputs[1]], {"axis": axis}, name=f"{reader.name}.row")
        value = outer.outputs[0]
        value.name, value.type = f"{reader.outputs[0].name}.row", source.type
        value.shape = ir.Shape([size for at, size in enumerate(shape) if at != axis])
        graph.insert_before(reader, outer)
        reader.replace_input_with(0, value)
        reader.replace_input_with(1, node.inputs[1])
        reader.attributes["axis"] = ir.AttrInt64("axis", dropped - (axis < dropped))
    graph.remove(node, safe=True)


def _row(node: ir.Node) -> tuple[int, int] | None:
    """The axis and the index of a row that Gather reads without the axis."""
    shape = static_shape(node.inputs[0]) if node.op_type == "Gather" else None
    index = constant(node.inputs[1]) if shape else None
    if not shape or index is None or index.ndim:
        return None
    return node.attributes.get_int("axis", 0) % len(shape), int(index)


def _concatenation(value: ir.Value, depth: int = 0) -> tuple[int, list[int]] | None:
    """Axis and sizes of the concatenation behind `value`, seen through a few elementwise operators."""
    node = value.producer()
    if node is None or value.shape is None or depth > _MAX_DEPTH:
        return None
    if node.op_type == "Concat":
        return _sizes(node, len(value.shape))
    if node.op_type == "Unsqueeze":
        return _concatenation_behind(node, depth)
    if node.op_type not in _ELEMENTWISE:
        return None
    for operand in node.inputs:
        if operand is None or operand.shape != value.shape:
            continue
        found = _concatenation(operand, depth + 1)
        others = [other for other in node.inputs if other is not None and other is not operand]
        if found is not None and all(_is_constant_along(other, value, found[0]) for other in others):
            return found
    return None


def _sizes(concat: ir.Node, rank: int) -> tuple[int, list[int]] | None:
    axis = concat.attributes.get_int("axis", 0) % rank
    shapes = [piece.shape for piece in concat.inputs if piece is not None]
    sizes = [shape[axis] if shape is not None else None for shape in shapes]
    if len(sizes) < 2 or not all(isinstance(size, int) for size in sizes):
        return None
    return axis, [int(size) for size in sizes if isinstance(size, int)]


def _concatenation_behind(unsqueeze: ir.Node, depth: int) -> tuple[int, list[int]] | None:
    """That of an Unsqueeze, as a stack of tensors is written: the axis moves by the axes that are put in."""
    source, shape = unsqueeze.inputs[0], unsqueeze.outputs[0].shape
    found = _concatenation(source, depth + 1) if source is not None else None
    axes = _axes(unsqueeze)
    if found is None or axes is None or shape is None:
        return None
    put_in = {axis % len(shape) for axis in axes}
    return [axis for axis in range(len(shape)) if axis not in put_in][found[0]], found[1]


def _axes(node: ir.Node) -> list[int] | None:
    """The axes of an Unsqueeze: an attribute once, an input since operator set 13."""
    if "axes" in node.attributes:
        return list(node.attributes.get_ints("axes", []))
    given = constant(node.inputs[1])
    return None if given is None else [int(axis) for axis in given.reshape(-1)]


def _is_constant_along(operand: ir.Value, value: ir.Value, axis: int) -> bool:
    if operand.shape is None or value.shape is None:
        return False
    position = axis - (len(value.shape) - len(operand.shape))
    return position < 0 or operand.shape[position] == 1


def _distribute(graph: ir.Graph, value: ir.Value, axis: int) -> list[ir.Value]:
    """The value of each piece, with the elementwise operators around the concatenation applied to it."""
    node = value.producer()
    assert node is not None
    if node.op_type == "Concat":
        return [piece for piece in node.inputs if piece is not None]
    index = next(i for i, x in enumerate(node.inputs) if x is not None and _concatenation(x) is not None)
    packed = node.inputs[index]
    assert packed is not None
    found = _concatenation(value)
    inner = _concatenation(packed)
    assert found is not None
    assert inner is not None
    written, piece_sizes = [], found[1]
    for number, piece in enumerate(_distribute(graph, packed, inner[0])):
        operands = [piece if i == index else operand for i, operand in enumerate(node.inputs)]
        copy = ir.node(node.op_type, operands, dict(node.attributes), name=f"{value.name}.part{number}")
        result = copy.outputs[0]
        result.name, result.type = f"{value.name}.part{number}", value.type
        result.shape = _with_size(value, axis, piece_sizes[number])
        graph.insert_after(node, copy)
        written.append(result)
    return written


def _with_size(value: ir.Value, axis: int, size: int) -> ir.Shape:
    dims = list(value.shape or ())
    dims[axis] = size
    return ir.Shape(dims)


def _named(graph: ir.Graph, value: ir.Value, name: str) -> ir.Value:
    """A value of its own for one piece, even where pieces coincide or are graph inputs."""
    node = ir.node("Identity", [value], name=name)
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = name, value.type, value.shape
    graph.append(node)
    return node.outputs[0]


def _slices_for_split(graph: ir.Graph, node: ir.Node, axis: int) -> None:
    """Replace a Split along `axis` by one Slice for each of its outputs."""
    data = node.inputs[0]
    shapes = [static_shape(output) for output in node.outputs]
    if data is None or data.shape is None or None in shapes:
        return
    if node.attributes.get_int("axis", 0) % len(data.shape) != axis:
        return
    offsets = [0, *accumulate(shape[axis] for shape in shapes if shape is not None)]
    for index, output in enumerate(list(node.outputs)):
        bounds = [offsets[index], offsets[index + 1], axis]
        operands = [_integer(graph, f"{output.name}.slice.{i}", bound) for i, bound in enumerate(bounds)]
        piece = ir.node("Slice", [data, *operands], name=f"{output.name}.slice")
        piece.outputs[0].name, piece.outputs[0].shape = f"{output.name}.sliced", output.shape
        piece.outputs[0].type = output.type
        graph.insert_before(node, piece)
        ir.convenience.replace_all_uses_with(output, piece.outputs[0], replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _integer(graph: ir.Graph, name: str, number: int) -> ir.Value:
    value = ir.val(name, const_value=ir.tensor(np.array([number], dtype=np.int64), name=name))
    graph.register_initializer(value)
    return value


def _new_input(before: ir.Value, axis: int, size: int, index: int) -> ir.Value:
    dims = list(static_shape(before) or ())
    dims[axis] = size
    return ir.val(f"{before.name}.{index}", dtype=before.dtype, shape=dims)


@dataclass(frozen=True)
class _Reader:
    """A node that reads only piece `piece`: input `operand` takes `constant` instead, if there is one."""

    node: ir.Node
    index: int
    piece: int
    constants: tuple[tuple[int, np.ndarray], ...]

    def rewire(self, pieces: Sequence[ir.Value]) -> None:
        self.node.replace_input_with(self.index, pieces[self.piece])
        for operand, array in self.constants:
            value = self.node.inputs[operand]
            assert value is not None
            assert self.node.graph is not None
            name = f"{value.name}.{self.node.name or self.node.outputs[0].name}.{operand}"
            shifted = ir.val(name, const_value=ir.tensor(array, name=name))
            self.node.graph.register_initializer(shifted)
            self.node.replace_input_with(operand, shifted)


def _reader(node: ir.Node, index: int, axis: int, offsets: Sequence[int]) -> _Reader | None:
    if index != 0:
        return None
    if node.op_type == "Gather":
        return _gather_reader(node, axis, offsets)
    if node.op_type == "Slice":
        return _slice_reader(node, axis, offsets)
    return None


def _gather_reader(node: ir.Node, axis: int, offsets: Sequence[int]) -> _Reader | None:
    data, indices = node.inputs[0], constant(node.inputs[1])
    rank = len(data.shape) if data is not None and data.shape is not None else 0
    if rank == 0 or indices is None or node.attributes.get_int("axis", 0) % rank != axis:
        return None
    wanted = np.where(indices < 0, indices + offsets[-1], indices)
    piece = _piece(int(wanted.min()), int(wanted.max()) + 1, offsets)
    return None if piece is None else _Reader(node, 0, piece, ((1, wanted - offsets[piece]),))


def _slice_reader(node: ir.Node, axis: int, offsets: Sequence[int]) -> _Reader | None:
    data = node.inputs[0]
    starts, ends = constant(node.inputs[1]), constant(node.inputs[2])
    if data is None or data.shape is None or starts is None or ends is None:
        return None
    axes = _optional(node, 3, np.arange(len(starts)))
    steps = _optional(node, 4, np.ones_like(starts))
    if axes is None or steps is None or np.any(steps != 1):
        return None
    position = np.flatnonzero(axes % len(data.shape) == axis)
    if len(position) != 1:
        return None
    at = int(position[0])
    start, end, _ = slice(int(starts[at]), int(ends[at])).indices(offsets[-1])
    piece = _piece(start, end, offsets)
    if piece is None:
        return None
    starts, ends = starts.copy(), ends.copy()
    starts[at], ends[at] = start - offsets[piece], end - offsets[piece]
    return _Reader(node, 0, piece, ((1, starts), (2, ends)))


def _optional(node: ir.Node, index: int, default: np.ndarray) -> np.ndarray | None:
    if index >= len(node.inputs) or node.inputs[index] is None:
        return default
    return constant(node.inputs[index])


def _piece(start: int, end: int, offsets: Sequence[int]) -> int | None:
    """The piece that holds [start, end) entirely."""
    for index in range(len(offsets) - 1):
        if offsets[index] <= start < end <= offsets[index + 1]:
            return index
    return None


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer; None for a value that is computed."""
    if value is None or value.const_value is None:
        return None
    return np.asarray(value.const_value.numpy())
