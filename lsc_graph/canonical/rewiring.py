"""Small rewrites of onnx_ir graphs that keep every output's name."""

from __future__ import annotations

from collections.abc import Container, Sequence

import onnx_ir as ir
import onnx_ir.passes.common as passes

RECURRENT_OPS = frozenset(("RNN", "GRU", "LSTM"))
"""Operators that are a whole recurrence each."""


def inner_graphs(node: ir.Node) -> list[ir.Graph]:
    """The graphs that a node holds as attributes."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.data.values():  # asked of every node again and again: no view of a dict
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found += attribute.as_graphs()
    return found


def put_in_place(output: ir.Value, source: ir.Value) -> None:
    """Let every reader of a node's output read `source` instead; an output of a graph becomes an Identity."""
    for use in tuple(output.uses()):
        use.node.replace_input_with(use.idx, source)
    node = output.producer()
    if output.is_graph_output() and node is not None and node.graph is not None:
        copy = _copy_of(source, output)
        node.graph.insert_before(node, copy)
        ir.convenience.replace_all_uses_with(output, copy.outputs[0], replace_graph_outputs=True)
        name, output.name = output.name, f"{output.name}.replaced"
        copy.outputs[0].name = name


def replace_node(node: ir.Node, others: Sequence[ir.Node]) -> None:
    """Let others take the place of a node of one output, which the last of them computes."""
    if not others or node.graph is None:
        return
    node.graph.insert_before(node, others)
    put_in_place(node.outputs[0], others[-1].outputs[0])
    node.graph.remove(node, safe=True)


def _copy_of(source: ir.Value, like: ir.Value) -> ir.Node:
    """An Identity of `source` that stands for `like`."""
    copy = ir.node("Identity", [source])
    copy.outputs[0].type = source.type or like.type
    copy.outputs[0].shape = source.shape if source.shape is not None else like.shape
    return copy


def cast_to_known_types(model: ir.Model) -> None:
    """Turn every CastLike into a Cast: what it reads the type of is no source of its value."""
    for node in list(model.graph.all_nodes()):
        if node.op_type != "CastLike" or node.domain not in ("", "ai.onnx") or node.inputs[1] is None:
            continue
        dtype = node.inputs[1].dtype
        if dtype is not None:
            node.resize_inputs(1)
            node.op_type = "Cast"
            node.attributes["to"] = ir.AttrInt64("to", int(dtype))


def remove_identities(model: ir.Model) -> None:
    """Remove Identity nodes, except between an output of a graph and a value that has to keep its name."""
    for node in list(model.graph.all_nodes()):
        if node.op_type != "Identity" or node.domain or node.graph is None:
            continue
        source, output = node.inputs[0], node.outputs[0]
        is_output, name = output.is_graph_output(), output.name
        if source is None or (is_output and not _may_be_renamed(source, node)):
            continue
        source.shape = source.shape if source.shape is not None else output.shape
        source.type = source.type or output.type
        ir.convenience.replace_all_uses_with(output, source, replace_graph_outputs=True)
        node.graph.remove(node, safe=True)
        if is_output:
            output.name, source.name = None, name


def _may_be_renamed(source: ir.Value, node: ir.Node) -> bool:
    producer = source.producer()
    return producer is not None and producer.graph is node.graph and not source.is_graph_output()


def remove_unused(model: ir.Model) -> None:
    """Remove nodes and initializers that nothing reads, and what only the insides of removed nodes read.

    Recurrent operators that are left keep all of their outputs: states are compared by their names.
    """
    operators = [node for node in model.graph if node.op_type in RECURRENT_OPS]
    outputs = [[(value.name, value.type) for value in node.outputs] for node in operators]
    while True:
        holders = [node for node in model.graph.all_nodes() if inner_graphs(node)]
        passes.RemoveUnusedNodesPass()(model)
        removed = [node for node in holders if node.graph is None]
        if not removed:
            break
        for node in removed:
            forget_insides(node)
    for node, own in zip(operators, outputs, strict=True):
        if node.graph is not None:
            _show_outputs(node, own)


def _show_outputs(node: ir.Node, outputs: Sequence[tuple[str | None, ir.TypeProtocol | None]]) -> None:
    node.resize_outputs(len(outputs))
    for value, (name, kind) in zip(node.outputs, outputs, strict=True):
        value.name, value.type = value.name or name, value.type or kind


def remove_unused_in(graph: ir.Graph) -> None:
    """Remove nodes of one graph that nothing reads; those that are left keep all of their outputs."""
    for node in reversed(list(graph)):
        if not any(value.is_graph_output() or any(True for _ in value.uses()) for value in node.outputs):
            graph.remove(node, safe=True)
            forget_insides(node)


def remove_unread(value: ir.Value, kept: Container[ir.Value] = ()) -> None:
    """Remove the node of a value that nothing reads any more, and what only that has read, but for `kept`."""
    waiting = [value]
    while waiting:
        node = waiting.pop().producer()
        if node is None or node.graph is None:
            continue
        if any(v in kept or v.is_graph_output() or v.uses() for v in node.outputs):
            continue
        waiting += [operand for operand in node.inputs if operand is not None]
        node.graph.remove(node, safe=True)
        forget_insides(node)


def forget_insides(node: ir.Node) -> None:
    """Let the graphs inside a removed node no longer count as readers of anything."""
    for graph in inner_graphs(node):
        for inner in graph.all_nodes():
            for index in range(len(inner.inputs)):
                inner.replace_input_with(index, None)
        for own in (graph, *graph.subgraphs()):
            own.outputs.clear()


def lift_constants(model: ir.Model) -> None:
    """Make every Constant node, and every initializer of an inner graph, an initializer of the main graph."""
    for graph in model.graphs():
        _copy_direct_outputs(graph)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.LiftSubgraphInitializersToMainGraphPass()(model)


def _copy_direct_outputs(graph: ir.Graph) -> None:
    """Put an Identity between a constant and the output of a graph that it is."""
    for index, output in enumerate(graph.outputs):
        producer = output.producer()
        is_constant = producer is not None and producer.op_type == "Constant" and not producer.domain
        if is_constant or output.is_initializer():
            copy = _copy_of(output, output)
            graph.append(copy)
            graph.outputs[index] = copy.outputs[0]
            name = new = str(output.name)
            while new == name or new in graph.initializers:
                new += ".value"
            output.name = new
            copy.outputs[0].name = name
