"""If nodes whose condition is known: the taken branch moves into the graph around it."""

from __future__ import annotations

import onnx_ir as ir

from lsc_graph.rewiring import forget_insides, inner_graphs, put_in_place


def take_decided_branches(model: ir.Model) -> bool:
    """Inline the taken branch of every If whose condition is constant, wherever it is; True if any was."""
    is_changed = False
    pending = [model.graph]
    while pending:
        graph = pending.pop()
        while decided := [node for node in graph if _condition(node) is not None]:
            for node in decided:
                _take(graph, node, "then_branch" if _condition(node) else "else_branch")
            is_changed = True
        pending += [inner for node in graph for inner in inner_graphs(node)]
    return is_changed


def _condition(node: ir.Node) -> bool | None:
    """What the condition of an If is, where it is a constant; None for all other nodes."""
    if node.op_type != "If" or node.domain or node.inputs[0] is None:
        return None
    value = node.inputs[0]
    if value.const_value is None or not value.is_initializer() or value.const_value.size != 1:
        return None
    return bool(value.const_value.numpy().item())


def _take(graph: ir.Graph, node: ir.Node, name: str) -> None:
    branch = node.attributes[name].as_graph()
    results = list(branch.outputs)
    branch.outputs.clear()
    nodes = list(branch)
    branch.remove(nodes)
    graph.insert_before(node, nodes)
    for result, output in zip(results, node.outputs, strict=True):
        put_in_place(output, result)
    graph.remove(node, safe=True)
    forget_insides(node)
