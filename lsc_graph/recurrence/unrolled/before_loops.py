"""What a loop would have given one step before its first, where that follows from what it starts from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import onnx_ir as ir

from lsc_graph.canonical.rewiring import inner_graphs
from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.dataflow import original
from lsc_graph.recurrence.unrolled.reads import Slices
from lsc_graph.recurrence.unrolled.slices import size_along
from lsc_graph.recurrence.writer import GraphWriter


def value_before(slices: Slices, writer: GraphWriter) -> ir.Value | None:
    """What stands before slices that are a loop's results from the first one on, if these are states.

    Where they are computed from the states that each step hands on, it is computed from the first ones. Who
    reads the last one, too, has as many steps as the loop: none is missing before them.
    """
    scan, position = slices.source.producer(), slices.source.index()
    shape = static_shape(slices.source)
    if scan is None or scan.op_type != "Scan" or slices.keeps_axis or position is None or shape is None:
        return None
    body = scan.attributes["body"].as_graph()
    num_states = len(scan.inputs) - scan.attributes.get_int("num_scan_inputs", 0)
    own = position - num_states
    if own < 0 or entry_of(scan, "scan_output_axes", own) != slices.axis:
        return None
    is_reverse = entry_of(scan, "scan_output_directions", own) == 1
    first, stride = (shape[slices.axis] - 1, -1) if is_reverse else (0, 1)
    if slices.indices[0] != first or slices.stride != stride or len(slices.indices) == shape[slices.axis]:
        return None
    states = [original(value) for value in body.outputs[:num_states]]
    starts = {state: start for state, start in zip(states, scan.inputs, strict=False) if start is not None}
    value = original(body.outputs[position])
    nodes = _between(value, starts, body)
    if nodes is None:
        return None
    writer.repeat(nodes, starts)
    return starts[value]


def with_start(slices: Slices, start: ir.Value, writer: GraphWriter) -> Slices:
    """Slices of a sequence from its first or last one on, with what stands before that."""
    source, axis = slices.source, slices.axis
    shape = static_shape(source) or ()
    one, all_ = ([*shape[:axis], size, *shape[axis + 1 :]] for size in (1, shape[axis] + 1))
    row = start
    if not slices.keeps_axis:
        row = writer.op("Unsqueeze", [start, writer.integers([axis])], "start", one, source.dtype)
    is_first = slices.indices[0] == 0
    rows = [row, source] if is_first else [source, row]
    joined = writer.op("Concat", rows, "with_start", all_, source.dtype, axis=axis)
    moved = [index + 1 for index in slices.indices] if is_first else slices.indices
    return replace(slices, source=joined, indices=(0 if is_first else shape[axis], *moved))


def start_of(slices: Slices, step: int) -> ir.Value | None:
    """What stands before a sequence, if a step reads that of slices `with_start`."""
    node, size = slices.source.producer(), size_along(slices.source, slices.axis)
    ends = {0: 0, (size or 0) - 1: -1}
    if node is None or node.op_type != "Concat" or slices.indices[step] not in ends:
        return None
    row = node.inputs[ends[slices.indices[step]]]
    axis = node.attributes.get_int("axis", 0) % len(slices.source.shape or (0,))
    if row is None or axis != slices.axis or size_along(row, axis) != 1:
        return None
    made = row.producer()
    if slices.keeps_axis or made is None:
        return row if slices.keeps_axis else None
    return made.inputs[0] if made.op_type == "Unsqueeze" else None


def entry_of(scan: ir.Node, name: str, index: int) -> int:
    """One of the integers of an attribute, all of which are zero unless given."""
    values = scan.attributes.get_ints(name, None)
    return values[index] if values else 0


def _between(value: ir.Value, states: Collection[ir.Value], body: ir.Graph) -> list[ir.Node] | None:
    """The nodes that lead from the states that a step hands on to a value; None if it depends on more."""
    needed, pending, seen = set[ir.Node](), [value], set(states)
    while pending:
        own = pending.pop()
        if own in seen:
            continue
        seen.add(own)
        node = own.producer()
        if own in body.inputs or own.name in body.initializers:
            return None
        if node is not None and node.graph is body:
            if inner_graphs(node):
                return None
            needed.add(node)
            pending += [v for v in node.inputs if v is not None]
    is_of_states = value in states or any(v in states for node in needed for v in node.inputs)
    return [node for node in body if node in needed] if is_of_states else None
