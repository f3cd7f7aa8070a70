"""A loop replaced by its iterations, one after another."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.rewiring import forget_insides, put_in_place
from lsc_graph.recurrence.layered.over_layers import Iterations
from lsc_graph.recurrence.writer import GraphWriter, Names, values_in


def write_iterations(loop: Iterations, names: Names) -> None:
    """Replace a Loop or Scan by copies of its body, in place; shapes have to be inferred afterwards.

    Args:
        loop: a loop of a model whose constants are initializers of the main graph.
        names: those of the model.
    """
    node = loop.node
    graph = node.graph
    assert graph is not None
    writer = GraphWriter(names.unique_prefix(f"{node.name or 'loop'}.layers"), None)
    carried, collected = _iterated(loop, writer)
    stacked = [_stacked(loop, index, elements, writer) for index, elements in enumerate(collected)]
    graph.insert_before(node, writer.nodes)
    for old, new in zip(node.outputs, [*carried, *stacked], strict=True):
        put_in_place(old, new)
    graph.remove(node, safe=True)
    forget_insides(node)


def _iterated(loop: Iterations, writer: GraphWriter) -> tuple[list[ir.Value], list[list[ir.Value]]]:
    """What the loop carries in the end, and the elements of each output that it collects."""
    is_loop = loop.node.op_type == "Loop"
    carried = [carried.start for carried in loop.parts.carried]
    elements = []
    for number in range(loop.num):
        first = [writer.scalar(number), writer.constant(np.array(True), "go_on")] if is_loop else []
        slices = [] if is_loop else [_slice(loop, index, number, writer) for index in range(len(loop.reads))]
        outputs = _copied(loop.body, [*first, *carried, *slices], number, writer)
        outputs = outputs[1:] if is_loop else outputs
        carried, rest = outputs[: len(carried)], outputs[len(carried) :]
        elements.append(rest)
    return carried, [list(column) for column in zip(*elements, strict=True)]


def _slice(loop: Iterations, index: int, number: int, writer: GraphWriter) -> ir.Value:
    read = loop.reads[index]
    shape = list(read.source.shape or ())
    del shape[read.axis]
    where = writer.scalar(read.indices[number])
    return writer.op("Gather", [read.source, where], "slice", shape, read.source.dtype, axis=read.axis)


def _copied(body: ir.Graph, inputs: list[ir.Value], number: int, writer: GraphWriter) -> list[ir.Value]:
    """What a copy of the body gives for these inputs; its nodes are appended to the writer."""
    copy = body.clone(allow_outer_scope_values=True)
    for value in values_in(copy):
        if value.name:
            value.name = f"{value.name}.{number}"
    for node in copy.all_nodes():
        node.name = f"{node.name}.{number}" if node.name else None
        for value in node.outputs:
            value.shape = None  # may be another one in each iteration
    given = dict(zip(copy.inputs, inputs, strict=True))
    outputs = [given.get(value, value) for value in copy.outputs]
    copy.outputs.clear()
    for inner, outer in given.items():
        ir.convenience.replace_all_uses_with(inner, outer)
    nodes = list(copy)
    copy.remove(nodes)
    writer.nodes += nodes
    return outputs


def _stacked(loop: Iterations, index: int, elements: list[ir.Value], writer: GraphWriter) -> ir.Value:
    """What a loop collects in one of its outputs."""
    node, axis = loop.node, 0
    if node.op_type == "Scan":
        position = index + len(loop.parts.carried)
        rank = len(node.outputs[position].shape or elements[0].shape or ())
        count = len(node.outputs) - len(loop.parts.carried)
        axis = node.attributes.get_ints("scan_output_axes", [0] * count)[index] % max(rank, 1)
        is_reverse = node.attributes.get_ints("scan_output_directions", [0] * count)[index]
        elements = elements[:: -1 if is_reverse else 1]
    rows = [
        writer.op("Unsqueeze", [element, writer.integers([axis])], "row", None, element.dtype)
        for element in elements
    ]
    return rows[0] if len(rows) == 1 else writer.op("Concat", rows, "rows", None, rows[0].dtype, axis=axis)
