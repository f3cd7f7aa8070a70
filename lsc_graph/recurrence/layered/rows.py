"""Rows of stacked tensors, read where they come from: out of a stack of layers' states or weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.loops.buffers import row_written
from lsc_graph.recurrence.loops.decided import array_of
from lsc_graph.recurrence.writer import GraphWriter, Names

Shape = tuple[int, ...]


@dataclass(frozen=True)
class RowRead:
    """A value that is one row of another one: without its axis, or with the axis at size 1."""

    value: ir.Value
    source: ir.Value
    axis: int
    index: int
    keeps_axis: bool


def row_read(value: ir.Value) -> RowRead | None:
    """The row that a value is, if Gather, Slice or Split reads it at a constant index."""
    node = value.producer()
    source = node.inputs[0] if node is not None and node.inputs else None
    shape, own = static_shape(source), static_shape(value)
    if node is None or source is None or not shape or own is None or node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Gather":
        return _gathered(node, value, source, shape)
    if node.op_type in ("Slice", "Split") and len(own) == len(shape):
        return _cut(node, value, source, shape)
    return None


def _gathered(node: ir.Node, value: ir.Value, source: ir.Value, shape: Shape) -> RowRead | None:
    indices, axis = array_of(node.inputs[1]), node.attributes.get_int("axis", 0) % len(shape)
    if indices is None or indices.size != 1 or indices.ndim > 1:
        return None
    index = int(indices.reshape(-1)[0]) % shape[axis]
    return RowRead(value, source, axis, index, indices.ndim == 1)


def _cut(node: ir.Node, value: ir.Value, source: ir.Value, shape: Shape) -> RowRead | None:
    """One of several rows, cut out with its axis."""
    taken = taken_ranges(node, value, shape)
    moving = [axis for axis, size in enumerate(shape) if taken is None or len(taken[axis]) != size]
    if taken is None or len(moving) != 1 or len(taken[moving[0]]) != 1:
        return None
    return RowRead(value, source, moving[0], taken[moving[0]][0], keeps_axis=True)


def taken_ranges(node: ir.Node, value: ir.Value, shape: Shape) -> list[range] | None:
    """Which indices of each axis an output of Slice or Split holds."""
    ranges = [range(size) for size in shape]
    if node.op_type == "Split":
        axis = node.attributes.get_int("axis", 0) % len(shape)
        sizes = [static_shape(output) for output in node.outputs]
        if any(size is None for size in sizes):
            return None
        start = sum(size[axis] for size in sizes[: value.index() or 0] if size is not None)
        ranges[axis] = range(start, start + (static_shape(value) or ())[axis])
        return ranges
    operands = [array_of(operand) for operand in node.inputs[1:]]
    if len(operands) < 2 or any(
        array is None and operand is not None
        for array, operand in zip(operands, node.inputs[1:], strict=True)
    ):
        return None
    starts, ends = (np.asarray(array).reshape(-1) for array in operands[:2])
    axes, steps = ([*operands[2:], None, None])[:2]
    axes = np.arange(len(starts)) if axes is None else axes.reshape(-1)
    steps = np.ones_like(starts) if steps is None else steps.reshape(-1)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        own = int(axis) % len(shape)
        ranges[own] = range(shape[own])[int(start) : int(end) : int(step)]
    return ranges


@dataclass
class Rows:
    """Finds rows behind the operators that stack, move and cut them.

    New nodes go in front of `reader`, the node of `graph` that is to read a row, or to the end of the graph;
    rows found once in a graph are kept.
    """

    main: ir.Graph
    names: Names
    graph: ir.Graph
    reader: ir.Node | None = None
    _found: dict[tuple[int, ir.Value, int, int], ir.Value] = field(default_factory=dict)
    _writers: dict[int, GraphWriter] = field(default_factory=dict)

    @property
    def writer(self) -> GraphWriter:
        """That of the reader's graph: constants of inner graphs are not seen from outside."""
        key = id(self.graph)
        if key not in self._writers:
            self._writers[key] = GraphWriter(self.names.unique_prefix("rows"), None)
        return self._writers[key]

    def row(self, value: ir.Value, axis: int, index: int) -> ir.Value:
        """`value` at `index` of `axis`, the axis left out."""
        key = (id(self.graph), value, axis, index)
        if key not in self._found:
            node, shape = value.producer(), static_shape(value)
            way = _WAYS.get(node.op_type) if node is not None and node.domain in ("", "ai.onnx") else None
            found = way(self, node, shape, axis, index) if way and node and shape is not None else None
            self._found[key] = found if found is not None else self._taken(value, axis, index)
        return self._found[key]

    def _taken(self, value: ir.Value, axis: int, index: int) -> ir.Value:
        shape = list(value.shape or ())
        del shape[axis]
        where = self.writer.scalar(index)
        return self.put("Gather", [value, where], shape, value.dtype, axis=axis)

    def put(
        self,
        op_type: str,
        inputs: list[ir.Value],
        shape: Sequence[int | ir.SymbolicDim | None],
        dtype: ir.DataType | None,
        **attributes: int | float | list[int],
    ) -> ir.Value:
        """The output of a new node in front of the reader."""
        writer = self.writer
        made = writer.op(op_type, list(inputs), "row", list(shape), dtype, **attributes)
        nodes = list(writer.nodes)
        writer.nodes.clear()
        if self.reader is None:
            self.graph.extend(nodes)
        else:
            self.graph.insert_before(self.reader, nodes)
        return made

    def joined(self, rows: list[ir.Value], axis: int, shape: Shape) -> ir.Value:
        """Rows joined to a tensor of this shape."""
        own, dtype = [*shape[:axis], 1, *shape[axis + 1 :]], rows[0].dtype
        flat = [self.put("Unsqueeze", [row, self.writer.integers([axis])], own, dtype) for row in rows]
        return self.put("Concat", flat, shape, dtype, axis=axis)


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
    if node.op_type in _ELEMENTWISE and not node.domain:
        return all(_is_stacked(each, at, own, main) for each in node.inputs if each is not None)
    return leads_to_row(value)


_ELEMENTWISE = frozenset(
    ("Abs", "Add", "Clip", "Cos", "Div", "Elu", "Exp", "Log", "Max", "Min", "Mul", "Neg", "Pow", "Reciprocal",
     "Relu", "Selu", "Sigmoid", "Sin", "Softplus", "Sqrt", "Sub", "Tanh", "Where")
)  # fmt: skip
_WAYS: dict[str, Callable[[Rows, ir.Node, Shape, int, int], ir.Value | None]] = {
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
    **dict.fromkeys(_ELEMENTWISE, _of_elementwise),
}


def leads_to_row(value: ir.Value) -> bool:
    """Whether rows of a value may be found behind the operator that computes it."""
    node = value.producer()
    return node is not None and node.op_type in _WAYS and node.domain in ("", "ai.onnx")
