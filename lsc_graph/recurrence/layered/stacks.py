"""Stacks of states taken apart: every row is read where it was written, and a stack is its rows joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from lsc_graph.canonical.rewiring import put_in_place
from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.dataflow import copied
from lsc_graph.recurrence.layered.over_layers import MAX_LAYERS
from lsc_graph.recurrence.layered.released import carried_of, is_loop
from lsc_graph.recurrence.layered.row_ways import WAYS, leads_to_row, writes_rows
from lsc_graph.recurrence.layered.rows import Rows, row_read
from lsc_graph.recurrence.writer import Names


def read_rows(model: ir.Model) -> None:
    """Read single rows of stacks where they come from, in place."""
    names = Names(model.graph)
    rows = Rows(WAYS, model.graph, names, model.graph)
    for graph in list(model.graphs()):
        for node in list(graph):
            rows.graph, rows.reader = graph, node
            if node.op_type == "Concat":
                _leave_out_empty(node)
            for value in node.outputs:
                _read_row(value, rows)


def _leave_out_empty(node: ir.Node) -> None:
    """Pieces without elements, as a stack that grows starts from, are no pieces of a Concat."""
    shapes = [static_shape(piece) for piece in node.inputs]
    if None in shapes or not node.outputs[0].shape:
        return
    kept = [
        piece
        for piece, shape in zip(node.inputs, shapes, strict=True)
        if shape is not None and 0 not in shape
    ]
    if not 0 < len(kept) < len(shapes):
        return
    for index, piece in enumerate(kept):
        node.replace_input_with(index, piece)
    node.resize_inputs(len(kept))


def _read_row(value: ir.Value, rows: Rows) -> None:
    read = row_read(value)
    if read is None or value.dtype is None or not value.dtype.is_floating_point():
        return
    if not (read.keeps_axis or leads_to_row(read.source)):
        return
    row = rows.row(read.source, read.axis, read.index)
    if not read.keeps_axis:
        put_in_place(value, row)
        return
    for use in list(value.uses()):
        result = use.node.outputs[0]
        if use.node.op_type in ("Squeeze", "Reshape") and static_shape(result) == static_shape(row):
            put_in_place(result, row)
    shape = list(static_shape(value) or ())
    put_in_place(value, rows.put("Unsqueeze", [row, rows.writer.integers([read.axis])], shape, value.dtype))


def join_rows(model: ir.Model) -> None:
    """Write every state that is read row by row as its rows joined, in place.

    Those are carried values of loops, and outputs of the model that are alike inputs of it.
    """
    names = Names(model.graph)
    for node in list(model.graph.all_nodes()):
        if node.op_type == "ScatterND" and node.graph is not None and not _is_written_again(node.outputs[0]):
            _join_written(node, Rows(WAYS, model.graph, names, node.graph, node))
        if is_loop(node):
            rows = Rows(WAYS, model.graph, names, node.attributes["body"].as_graph())
            for carried in carried_of(node).carried:
                _read_as_rows(rows, carried.before)
                _join(rows, [carried.before], carried.after)
    for output in list(model.graph.outputs):
        _join(Rows(WAYS, model.graph, names, model.graph), model.graph.inputs, output)


def _read_as_rows(rows: Rows, before: ir.Value) -> None:
    """Let whatever reads a stack of states as a whole read its rows joined, if others read single rows."""
    shape, first = static_shape(before), next(iter(rows.graph), None)
    whole = [use for use in before.uses() if use.idx or row_read(use.node.outputs[0]) is None]
    axes = {read.axis for use in before.uses() if not use.idx and (read := row_read(use.node.outputs[0]))}
    if shape is None or first is None or len(axes) != 1 or not whole:
        return
    (axis,) = axes
    if shape[axis] > MAX_LAYERS:
        return
    rows = replace(rows, reader=first)
    joined = rows.joined([rows.row(before, axis, index) for index in range(shape[axis])], axis, shape)
    for use in whole:
        use.node.replace_input_with(use.idx, joined)


def _join(rows: Rows, befores: Sequence[ir.Value], after: ir.Value) -> None:
    shape = static_shape(after)
    axes = {_axis(before) for before in befores if static_shape(before) == shape}
    node = after.producer()
    if shape is None or len(axes) != 1 or None in axes or node is None or not leads_to_row(after):
        return
    (axis,) = axes
    assert axis is not None
    if _are_joined(after, axis, len(shape)):
        return
    found = [rows.row(after, axis, index) for index in range(shape[axis])]
    joined = rows.joined(found, axis, shape)
    put_in_place(after, joined)


def _join_written(node: ir.Node, rows: Rows) -> None:
    """A stack whose rows are written one by one, as these rows joined."""
    value, shape = node.outputs[0], static_shape(node.outputs[0])
    if not shape or shape[0] > MAX_LAYERS:
        return
    if value.dtype is None or not value.dtype.is_floating_point() or not writes_rows(node):
        return
    joined = rows.joined([rows.row(value, 0, index) for index in range(shape[0])], 0, shape)
    put_in_place(value, joined)


def _is_written_again(value: ir.Value) -> bool:
    uses = list(value.uses())
    is_data = all(use.node.op_type == "ScatterND" and use.idx == 0 for use in uses)
    return bool(uses) and is_data and not value.is_graph_output()


def _axis(value: ir.Value) -> int | None:
    """The axis that a value is read along, if it is only read row by row."""
    reads = [row_read(use.node.outputs[0]) if use.idx == 0 else None for use in value.uses()]
    axes = {read.axis if read is not None else None for read in reads}
    return axes.pop() if len(axes) == 1 else None


def _are_joined(value: ir.Value, axis: int, rank: int) -> bool:
    """Whether a value is its rows joined already, copies aside."""
    while (source := copied(value)) is not None:
        value = source
    node = value.producer()
    if node is None or node.op_type != "Concat" or node.attributes.get_int("axis", 0) % rank != axis:
        return False
    pieces = [piece.producer() for piece in node.inputs if piece is not None]
    return all(piece is not None and piece.op_type == "Unsqueeze" for piece in pieces)
