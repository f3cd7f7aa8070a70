"""Rows of stacked tensors, read where they come from: out of a stack of layers' states or weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
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


Way = Callable[["Rows", ir.Node, Shape, int, int], ir.Value | None]
"""How a row (its axis, its index) of what a node computes is found behind that node, if it can be."""


@dataclass
class Rows:
    """Finds rows behind the operators that stack, move and cut them.

    New nodes go in front of `reader`, the node of `graph` that is to read a row, or to the end of the graph;
    rows found once in a graph are kept.
    """

    ways: Mapping[str, Way]
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
            way = self.ways.get(node.op_type) if node is not None and node.domain in ("", "ai.onnx") else None
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
