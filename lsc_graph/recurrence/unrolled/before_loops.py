"""What a loop would have given one step before its first, where that follows from what it starts from."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.dataflow import original, subgraphs_of
from lsc_graph.recurrence.unrolled.reads import Slices
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
            if any(True for _ in subgraphs_of(node)):
                return None
            needed.add(node)
            pending += [v for v in node.inputs if v is not None]
    is_of_states = value in states or any(v in states for node in needed for v in node.inputs)
    return [node for node in body if node in needed] if is_of_states else None
