"""Scan nodes that run for a single step, replaced by their body."""

from __future__ import annotations

import onnx_ir as ir

from lsc_graph.recurrence.emit import Emitter, replace_output


def inline_single_step_scans(model: ir.Model) -> None:
    """Replace, in place, every Scan of the main graph whose scan length is statically 1 by its body."""
    for node in list(model.graph):
        if node.op_type == "Scan" and _scan_length(node) == 1:
            _inline(model.graph, node)


def _scan_length(node: ir.Node) -> int | None:
    num_sequences = node.attributes.get_int("num_scan_inputs", 0)
    sequence = node.inputs[len(node.inputs) - num_sequences]
    if sequence is None or sequence.shape is None:
        return None
    axis = (node.attributes.get_ints("scan_input_axes", None) or [0])[0]
    length = sequence.shape[axis]
    return length if isinstance(length, int) else None


def _inline(graph: ir.Graph, node: ir.Node) -> None:
    body = node.attributes["body"].as_graph()
    num_sequences = node.attributes.get_int("num_scan_inputs", 0)
    num_states = len(node.inputs) - num_sequences
    emitter = Emitter(f"{node.name}.inline", node.outputs[0].dtype or ir.DataType.FLOAT)
    input_axes = node.attributes.get_ints("scan_input_axes", None) or [0] * num_sequences
    num_outputs = len(node.outputs) - num_states
    output_axes = node.attributes.get_ints("scan_output_axes", None) or [0] * num_outputs
    for index, inner in enumerate(list(body.inputs)):
        outer = node.inputs[index]
        assert outer is not None
        if index >= num_states:
            axis = emitter.integers([input_axes[index - num_states]])
            outer = emitter.op("Squeeze", outer, axis, dtype=outer.dtype)
            outer.shape = inner.shape
        ir.convenience.replace_all_uses_with(inner, outer, replace_graph_outputs=True)
    results = list(body.outputs)
    body.outputs.clear()
    inner_nodes = list(body)
    body.remove(inner_nodes)
    for name, initializer in list(body.initializers.items()):
        del body.initializers[name]
        graph.register_initializer(initializer)
    tail = Emitter(f"{node.name}.inlined", emitter.dtype)
    for index, (result, output) in enumerate(zip(results, node.outputs, strict=True)):
        if not output.name:
            continue
        if index < num_states:
            joined = tail.op("Identity", result, dtype=result.dtype)
        else:
            axis = tail.integers([output_axes[index - num_states]])
            joined = tail.op("Unsqueeze", result, axis, dtype=result.dtype)
        replace_output(joined, output)
    graph.insert_before(node, [*emitter.nodes, *inner_nodes, *tail.nodes])
    for initializer in (*emitter.initializers, *tail.initializers):
        graph.register_initializer(initializer)
    graph.remove(node, safe=True)
