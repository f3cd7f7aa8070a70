"""Rows of stacked weights as weights of their own, which keep their place in the tensor of the file."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.origins import copy_origin
from lsc_graph.canonical.rewiring import put_in_place
from lsc_graph.recurrence.layered.rows import RowRead, row_read


def split_weights(model: ir.Model) -> None:
    """Replace stacked floating-point initializers by their rows, where nothing else of them is read.

    What is read as a whole too stays one weight: its rows would no longer be tied to it.
    """
    pending = list(model.graph.initializers.values())
    while pending:
        value = pending.pop()
        reads = _rows_of(value)
        if reads:
            pending += _split(model.graph, value, reads)


def _rows_of(value: ir.Value) -> list[RowRead]:
    """The rows that a weight is read by; none if it is read in another way, or along several axes."""
    uses = list(value.uses())
    tensor = value.const_value
    if tensor is None or not tensor.dtype.is_floating_point() or value.is_graph_output():
        return []
    found = []
    for use in uses:
        read = row_read(use.node.outputs[0]) if use.idx == 0 and len(use.node.outputs) == 1 else None
        if read is None or read.keeps_axis:
            return []
        found.append(read)
    return found if len({read.axis for read in found}) == 1 else []


def _split(graph: ir.Graph, value: ir.Value, reads: list[RowRead]) -> list[ir.Value]:
    by_index: defaultdict[int, list[RowRead]] = defaultdict(list)
    for read in reads:
        by_index[read.index].append(read)
    rows = []
    for index, own in sorted(by_index.items()):
        row = _row(graph, value, own[0].axis, index)
        rows.append(row)
        for read in own:
            put_in_place(read.value, row)
    return rows


def _row(graph: ir.Graph, value: ir.Value, axis: int, index: int) -> ir.Value:
    assert value.const_value is not None
    array = np.ascontiguousarray(np.take(value.const_value.numpy(), index, axis))
    name = f"{value.name}[{', '.join([':'] * axis + [str(index)])}]"
    while name in graph.initializers:
        name += "_"
    tensor = ir.Tensor(array, dtype=value.const_value.dtype, name=name)
    row = ir.val(name, const_value=tensor, dtype=tensor.dtype, shape=ir.Shape(array.shape))
    copy_origin(value, row, axis, index)
    graph.register_initializer(row)
    return row
