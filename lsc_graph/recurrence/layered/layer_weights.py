"""Rows of stacked weights, one or several, as weights of their own with their place in the file's tensor."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.origins import Range, copy_origin, shown
from lsc_graph.canonical.rewiring import put_in_place
from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.layered.rows import row_read, taken_ranges


def split_weights(model: ir.Model) -> None:
    """Replace stacked floating-point initializers by their rows, where nothing else of them is read.

    So are those that are cut into blocks of rows by offsets. What is read as a whole too, or in blocks that
    overlap, stays one weight: its rows would no longer be tied to it.
    """
    pending = list(model.graph.initializers.values())
    while pending:
        value = pending.pop()
        reads = _rows_of(value) or _blocks_of(value)
        if reads:
            pending += _split(model.graph, value, reads)


@dataclass(frozen=True)
class _Read:
    """A value that is a part of a weight: at one index of an axis, or from one to before another."""

    value: ir.Value
    axis: int
    part: int | Range


def _is_weight(value: ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and tensor.dtype.is_floating_point() and not value.is_graph_output()


def _rows_of(value: ir.Value) -> list[_Read]:
    """The rows that a weight is read by; none if it is read in another way, or along several axes."""
    found = []
    for use in value.uses() if _is_weight(value) else ():
        read = row_read(use.node.outputs[0]) if use.idx == 0 and len(use.node.outputs) == 1 else None
        if read is None or read.keeps_axis:
            return []
        found.append(_Read(read.value, read.axis, read.index))
    return found if len({read.axis for read in found}) == 1 else []


def _blocks_of(value: ir.Value) -> list[_Read]:
    """The blocks that a weight is cut into along one axis; none if they overlap, or others read it."""
    found = []
    for use in value.uses() if _is_weight(value) else ():
        reads = [_block(value, use.node, output) for output in use.node.outputs] if use.idx == 0 else [None]
        if None in reads:
            return []
        found += [read for read in reads if read is not None]
    blocks = sorted({read.part for read in found if not isinstance(read.part, int)})
    is_apart = all(one[1] <= other[0] for one, other in pairwise(blocks))
    return found if is_apart and len({read.axis for read in found}) == 1 else []


def _block(weight: ir.Value, node: ir.Node, value: ir.Value) -> _Read | None:
    shape = static_shape(weight)
    if not shape or node.op_type not in ("Slice", "Split") or node.domain not in ("", "ai.onnx"):
        return None
    ranges = taken_ranges(node, value, shape)
    cut = [axis for axis, size in enumerate(shape) if ranges is None or ranges[axis] != range(size)]
    if ranges is None or len(cut) != 1 or ranges[cut[0]].step != 1 or not ranges[cut[0]]:
        return None
    return _Read(value, cut[0], (ranges[cut[0]].start, ranges[cut[0]].stop))


def _split(graph: ir.Graph, value: ir.Value, reads: list[_Read]) -> list[ir.Value]:
    by_part: defaultdict[int | Range, list[_Read]] = defaultdict(list)
    for read in reads:
        by_part[read.part].append(read)
    rows = []
    for part, own in by_part.items():
        row = _row(graph, value, own[0].axis, part)
        rows.append(row)
        for read in own:
            put_in_place(read.value, row)
    return rows


def _row(graph: ir.Graph, value: ir.Value, axis: int, part: int | Range) -> ir.Value:
    assert value.const_value is not None
    indices = part if isinstance(part, int) else range(*part)
    array = np.ascontiguousarray(np.take(value.const_value.numpy(), indices, axis))
    name = f"{value.name}[{shown((*[None] * axis, part))}]"
    while name in graph.initializers:
        name += "_"
    tensor = ir.Tensor(array, dtype=value.const_value.dtype, name=name)
    row = ir.val(name, const_value=tensor, dtype=tensor.dtype, shape=ir.Shape(array.shape))
    copy_origin(value, row, axis, part)
    graph.register_initializer(row)
    return row
