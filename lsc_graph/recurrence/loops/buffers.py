"""Carried values that a loop writes its results into: by index, into a list, or at the end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.loops.decided import Array, Decided, array_of
from lsc_graph.recurrence.loops.parts import Carried, LoopParts, origin
from lsc_graph.recurrence.writer import GraphWriter, replace_output


@dataclass(frozen=True)
class Accumulation:
    """A carried value that step k puts `element` into.

    It is put at `rows[k]` of `row_axis`, or appended along `axis`; neither is given for a list.
    """

    carried: Carried
    element: ir.Value
    rows: tuple[int, ...] | None = None
    axis: int | None = None
    row_axis: int = 0


def find_accumulations(parts: LoopParts, decided: Decided) -> list[Accumulation]:
    """The carried values that nothing in the body reads but the node that writes into them."""
    found = []
    for carried in parts.carried:
        node = origin(carried.after).producer()
        users = {use.node for use in carried.before.uses()}
        if node is None or users != {node} or node.inputs[0] is not carried.before:
            continue
        if node.op_type == "ScatterND":
            accumulation = scattered(carried, node, decided)
        elif node.op_type == "SequenceInsert" and len(node.inputs) == 2 and _starts_empty(carried):
            accumulation = _appended(carried, node)
        elif node.op_type == "Concat" and len(node.inputs) == 2:
            accumulation = _extended(carried, node)
        else:
            continue
        if accumulation is not None:
            found.append(accumulation)
    return found


def scattered(carried: Carried, node: ir.Node, decided: Decided) -> Accumulation | None:
    """What a ScatterND that writes into a carried value puts where, if that is one row at each step."""
    indices, element = node.inputs[1], node.inputs[2]
    known = array_of(indices)
    arrays = decided.arrays.get(indices) if indices is not None and known is None else None
    reduction = node.attributes.get_string("reduction", "none")
    shape = static_shape(carried.start)
    if arrays is None or element is None or reduction != "none" or not shape:
        return None
    for axis in range(arrays[0].shape[-1] if arrays[0].ndim else 0):
        found = [row for array in arrays if (row := row_written(array, shape, axis)) is not None]
        if len(set(found)) == len(arrays):
            return Accumulation(carried, element, tuple(found), row_axis=axis)
    return None


def row_written(indices: Array, shape: tuple[int, ...], axis: int = 0) -> int | None:
    """The row of an axis that indices [..., k] of ScatterND fill as a whole and in order, if any."""
    depth = indices.shape[-1] if indices.ndim else 0
    if not axis < depth <= len(shape):
        return None
    places, sizes = indices.reshape(-1, depth), np.array(shape[:depth])
    if not places.size or ((places < -sizes) | (places >= sizes)).any():
        return None
    places = places % sizes
    row = int(places[0, axis])
    others = [[row] if own == axis else range(size) for own, size in enumerate(shape[:depth])]
    whole = np.stack(np.meshgrid(*others, indexing="ij"), -1).reshape(-1, depth)
    return row if np.array_equal(places, whole) else None


def _starts_empty(carried: Carried) -> bool:
    node = carried.start.producer()
    return node is not None and node.op_type == "SequenceEmpty"


def _appended(carried: Carried, node: ir.Node) -> Accumulation | None:
    element = node.inputs[1]
    if element is None or carried.final.is_graph_output() or static_shape(element) is None:
        return None
    return Accumulation(carried, element)


def _extended(carried: Carried, node: ir.Node) -> Accumulation | None:
    start, element = static_shape(carried.start), node.inputs[1]
    shape = static_shape(element)
    if element is None or start is None or shape is None:
        return None
    return Accumulation(carried, element, axis=node.attributes.get_int("axis", 0) % len(shape))


def replace_accumulation(accumulation: Accumulation, sequence: ir.Value, writer: GraphWriter) -> None:
    """Let the readers of the carried value's last state read the stacked elements [T, ...]."""
    final, rows = accumulation.carried.final, accumulation.rows
    if accumulation.axis is not None:
        if final.name:
            replace_output(final, _lengthened(accumulation, accumulation.axis, sequence, writer))
        return
    if rows is None:
        _replace_list(accumulation, sequence, writer)
        return
    if not final.name:
        return
    start, shape = accumulation.carried.start, static_shape(accumulation.carried.start) or ()
    axis = accumulation.row_axis
    rest = (*shape[:axis], *shape[axis + 1 :])
    found = _reshaped(sequence, (len(rows), *rest), writer)
    if rows != tuple(range(shape[axis])):
        where = writer.constant(np.array(rows, dtype=np.int64)[:, None], "rows")
        whole = _turned(start, axis, 0, writer)
        found = writer.op("ScatterND", [whole, where, found], "filled", (shape[axis], *rest), start.dtype)
    replace_output(final, _turned(found, 0, axis, writer))


def _replace_list(accumulation: Accumulation, sequence: ir.Value, writer: GraphWriter) -> None:
    """Joins of a list become the stacked elements; who else reads it reads a list of their rows."""
    final = accumulation.carried.final
    for node in [use.node for use in final.uses() if use.node.op_type == "ConcatFromSequence"]:
        replace_output(node.outputs[0], _joined(node, accumulation.element, sequence, writer))
        node.replace_input_with(0, None)
        if node.graph is not None:
            node.graph.remove(node)
    if any(True for _ in final.uses()):
        rows = writer.op("SplitToSequence", [sequence], "rows", axis=0, keepdims=0)
        rows.type = final.type
        ir.convenience.replace_all_uses_with(final, rows)


def _turned(value: ir.Value, source: int, target: int, writer: GraphWriter) -> ir.Value:
    """The value with one axis moved to another place."""
    if source == target:
        return value
    shape = static_shape(value) or ()
    order = list(range(len(shape)))
    order.insert(target, order.pop(source))
    moved = [shape[place] for place in order]
    return writer.op("Transpose", [value], "turned", moved, value.dtype, perm=order)


def _reshaped(value: ir.Value, shape: tuple[int, ...], writer: GraphWriter) -> ir.Value:
    if static_shape(value) == shape:
        return writer.op("Identity", [value], "rows", shape, value.dtype)
    return writer.op("Reshape", [value, writer.integers(shape)], "rows", shape, value.dtype)


def _lengthened(accumulation: Accumulation, axis: int, sequence: ir.Value, writer: GraphWriter) -> ir.Value:
    """What the carried value started with, and the elements [T, ...] behind it along an axis."""
    start, added = accumulation.carried.start, _merged(accumulation.element, axis, sequence, writer)
    before, after = static_shape(start) or (), list(static_shape(added) or ())
    after[axis] += before[axis]
    if not before[axis]:
        return writer.op("Identity", [added], "rows", after, added.dtype)
    return writer.op("Concat", [start, added], "rows", after, added.dtype, axis=axis)


def _joined(node: ir.Node, element: ir.Value, sequence: ir.Value, writer: GraphWriter) -> ir.Value:
    """ConcatFromSequence of T elements [...] as an operation on [T, ...]."""
    is_new = node.attributes.get_int("new_axis", 0) == 1
    axis = node.attributes.get_int("axis", 0) % (len(static_shape(element) or ()) + is_new)
    return (_moved if is_new else _merged)(element, axis, sequence, writer)


def _moved(element: ir.Value, axis: int, sequence: ir.Value, writer: GraphWriter) -> ir.Value:
    """[T, ...] with T at another place."""
    shape = static_shape(element) or ()
    order = [*range(1, axis + 1), 0, *range(axis + 1, len(shape) + 1)]
    num_steps = (static_shape(sequence) or (1,))[0]
    moved = [*shape[:axis], num_steps, *shape[axis:]]
    return writer.op("Transpose", [sequence], "joined", moved, sequence.dtype, perm=order)


def _merged(element: ir.Value, axis: int, sequence: ir.Value, writer: GraphWriter) -> ir.Value:
    """T elements one behind the other along an axis."""
    shape = static_shape(element) or ()
    num_steps = (static_shape(sequence) or (1,))[0]
    moved = _moved(element, axis, sequence, writer)
    merged = [*shape[:axis], -1, *shape[axis + 1 :]]
    known = [*shape[:axis], num_steps * shape[axis], *shape[axis + 1 :]]
    return writer.op("Reshape", [moved, writer.integers(merged)], "merged", known, sequence.dtype)
