"""Where the rows of what an operator computes come from, for operators that stack, move, cut or map rows."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.layered.rows import Rows, Shape, Way, taken_ranges
from lsc_graph.recurrence.loops.buffers import row_written
from lsc_graph.recurrence.loops.decided import array_of


def _source(node: ir.Node) -> tuple[ir.Value, Shape] | None:
    source = node.inputs[0] if node.inputs else None
    shape = static_shape(source)
    return None if source is None or shape is None else (source, shape)


def _without(shape: Shape, axis: int) -> list[int]:
    return [size for at, size in enumerate(shape) if at != axis]


def _of_copy(rows: Rows, node: ir.Node, shape: Shape, axis: int, index: int) -> ir.Value | None:
    source = node.inputs[0]
    if source is None or static_shape(source) is None:
        return None
    row = rows.row(source, axis, index)
    if node.op_type == "Identity" or source.dtype == node.outputs[0].dtype:
        return row
    return rows.put(
        "Cast", [row], _without(shape, axis), node.outputs[0].dtype, to=node.attributes["to"].as_int()
    )


def _of_concat(rows: Rows, node: ir.Node, shape: Shape, axis: int, index: int) -> ir.Value | None:
    joined = node.attributes.get_int("axis", 0) % len(shape)
    pieces = [(piece, static_shape(piece)) for piece in node.inputs if piece is not None]
    if any(own is None for _, own in pieces):
        return None
    if joined != axis:
        parts = [rows.row(piece, axis, index) for piece, _ in pieces]
        return rows.put(
            "Concat", parts, _without(shape, axis), node.outputs[0].dtype, axis=joined - (joined > axis)
        )
    for piece, own in pieces:
        size = own[axis] if own is not None else 0
        if index < size:
            return rows.row(piece, axis, index)
        index -= size
    return None


def _axes(node: ir.Node, rank: int) -> list[int] | None:
    if "axes" in node.attributes:
        given = np.array(node.attributes.get_ints("axes", []))
    else:
        known = array_of(node.inputs[1]) if len(node.inputs) > 1 else None
        if known is None:
            return None
        given = known
    return sorted(int(axis) % rank for axis in given.reshape(-1))


def _of_unsqueeze(rows: Rows, node: ir.Node, shape: Shape, axis: int, index: int) -> ir.Value | None:
    found, axes = _source(node), _axes(node, len(shape))
    if found is None or axes is None:
        return None
    rest = [at for at in axes if at != axis]
    row = found[0]
    if axis not in axes:
        row = rows.row(row, axis - sum(at < axis for at in axes), index)
    if not rest:
        return row
    return _reshaped(rows, row, _without(shape, axis))


def _of_squeeze(rows: Rows, node: ir.Node, shape: Shape, axis: int, index: int) -> ir.Value | None:
    found = _source(node)
    if found is None:
        return None
    source, before = found
    axes = _axes(node, len(before)) if len(node.inputs) > 1 or "axes" in node.attributes else None
    left = [at for at, size in enumerate(before) if (at not in axes if axes is not None else size != 1)]
    return _reshaped(rows, rows.row(source, left[axis], index), _without(shape, axis))


def _of_transpose(rows: Rows, node: ir.Node, shape: Shape, axis: int, index: int) -> ir.Value | None:
    found = _source(node)
    if found is None:
        return None
    order = list(node.attributes.get_ints("perm", list(range(len(shape)))[::-1]))
    moved = order[axis]
    row = rows.row(found[0], moved, index)
    rest = [at - (at > moved) for at in order if at != moved]
    if rest == sorted(rest):
        return row
    return rows.put("Transpose", [row], _without(shape, axis), node.outputs[0].dtype, perm=rest)


def _of_reshape(rows: Rows, node: ir.Node, shape: Shape, axis: int, index: int) -> ir.Value | None:
    """Where the rows lie one behind the other before, too."""
    found = _source(node)
    if found is None:
        return None
    source, before = found
    lead = int(np.prod(shape[:axis], dtype=int))
    rest = int(np.prod(shape[axis + 1 :], dtype=int))
    if shape[axis] == 1:
        return _reshaped(rows, source, _without(shape, axis))
    for at, size in enumerate(before):
        outer, inner = int(np.prod(before[:at], dtype=int)), int(np.prod(before[at + 1 :], dtype=int))
        if outer == lead and size == shape[axis] and inner == rest:
            return _reshaped(rows, rows.row(source, at, index), _without(shape, axis))
    return None


def _reshaped(rows: Rows, value: ir.Value, shape: list[int]) -> ir.Value:
    if static_shape(value) == tuple(shape):
        return value
    return rows.put("Reshape", [value, rows.writer.integers(shape)], shape, value.dtype)


def writes_rows(node: ir.Node) -> bool:
    """Whether a ScatterND writes whole rows of the first axis, at constant places."""
    shape, indices = static_shape(node.outputs[0]), array_of(node.inputs[1])
    if shape is None or indices is None or node.attributes.get_string("reduction", "none") != "none":
        return False
    has_rows = bool(indices.ndim) and indices.shape[-1] == 1
    return static_shape(node.inputs[2]) is not None and (has_rows or row_written(indices, shape) is not None)


def _of_scatter(rows: Rows, node: ir.Node, shape: Shape, axis: int, index: int) -> ir.Value | None:
    """What was written into the row last, or what was there before."""
    data, where, updates = node.inputs[:3]
    indices = array_of(where)
    if axis or indices is None or data is None or updates is None or not writes_rows(node):
        return None
    if indices.shape[-1] > 1:
        is_it = row_written(indices, shape) == index
        return _reshaped(rows, updates, list(shape[1:])) if is_it else rows.row(data, 0, index)
    places = [int(place) % shape[0] for place in indices.reshape(-1)]
    if index not in places:
        return rows.row(data, 0, index)
    last = len(places) - 1 - places[::-1].index(index)
    return rows.row(_reshaped(rows, updates, [len(places), *shape[1:]]), 0, last)


def _of_slice(rows: Rows, node: ir.Node, shape: Shape, axis: int, index: int) -> ir.Value | None:
    found = _source(node)
    if found is None:
        return None
    value = node.outputs[0]
    taken = taken_ranges(node, value, found[1])
    if taken is None or any(
        len(own) != size for at, (own, size) in enumerate(zip(taken, found[1], strict=True)) if at != axis
    ):
        return None
    return rows.row(found[0], axis, taken[axis][index])


def _of_gather(rows: Rows, node: ir.Node, shape: Shape, axis: int, index: int) -> ir.Value | None:
    found, indices = _source(node), array_of(node.inputs[1])
    if found is None or indices is None or indices.ndim > 1:
        return None
    source, before = found
    along = node.attributes.get_int("axis", 0) % len(before)
    if indices.ndim == 0:
        inner = axis if axis < along else axis + 1
        row = rows.row(source, inner, index)
        maker = row.producer()
        if maker is not None and maker.op_type == "Gather" and maker.inputs[0] is source:
            return None  # nothing is known of the source's rows: the order of the two reads is as good
        return rows.row(row, along - (along > inner), int(indices) % before[along])
    if along == axis:
        return rows.row(source, axis, int(indices[index]) % before[axis])
    if np.array_equal(indices % before[along], np.arange(before[along])):
        return rows.row(source, axis, index)
    return None


def _of_elementwise(rows: Rows, node: ir.Node, shape: Shape, axis: int, index: int) -> ir.Value | None:
    """Each operand's row, where all of them are stacks or the same in every row."""
    operands = [value for value in node.inputs if value is not None]
    if len(operands) < len(node.inputs) or not all(
        _is_stacked(value, axis, shape, rows.main) for value in operands
    ):
        return None
    taken = []
    for value in operands:
        own = static_shape(value) or ()
        at = axis - (len(shape) - len(own))
        taken.append(value if at < 0 else rows.row(value, at, index if own[at] > 1 else 0))
    return rows.put(node.op_type, taken, _without(shape, axis), node.outputs[0].dtype, **_numbers(node))


def _numbers(node: ir.Node) -> dict[str, int | float]:
    """The attributes of an elementwise operator."""
    return {name: attribute.value for name, attribute in node.attributes.items()}


def _is_stacked(value: ir.Value, axis: int, shape: Shape, main: ir.Graph) -> bool:
    """Whether a value of an elementwise operator is the same in every row, or made of rows."""
    own = static_shape(value)
    at = axis - (len(shape) - len(own)) if own is not None else 0
    if own is None or at < 0 or own[at] == 1:
        return own is not None
    node = value.producer()
    if node is None:
        return value.is_initializer() or (value.is_graph_input() and value.graph is not main)
    if node.op_type in ELEMENTWISE and not node.domain:
        return all(_is_stacked(each, at, own, main) for each in node.inputs if each is not None)
    return leads_to_row(value)


ELEMENTWISE = frozenset(
    ("Abs", "Add", "Clip", "Cos", "Div", "Elu", "Exp", "Log", "Max", "Min", "Mul", "Neg", "Pow", "Reciprocal",
     "Relu", "Selu", "Sigmoid", "Sin", "Softplus", "Sqrt", "Sub", "Tanh", "Where")
)  # fmt: skip
WAYS: dict[str, Way] = {
    "Identity": _of_copy,
    "Cast": _of_copy,
    "Concat": _of_concat,
    "Unsqueeze": _of_unsqueeze,
    "Squeeze": _of_squeeze,
    "Transpose": _of_transpose,
    "Reshape": _of_reshape,
    "ScatterND": _of_scatter,
    "Slice": _of_slice,
    "Gather": _of_gather,
    **dict.fromkeys(ELEMENTWISE, _of_elementwise),
}


def leads_to_row(value: ir.Value) -> bool:
    """Whether rows of a value may be found behind the operator that computes it."""
    node = value.producer()
    return node is not None and node.op_type in WAYS and node.domain in ("", "ai.onnx")
