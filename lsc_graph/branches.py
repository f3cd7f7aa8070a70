"""If nodes whose condition is known: the taken branch moves into the graph around it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def take_decided_branches(model: ir.Model) -> bool:
    """Inline the taken branch of every If of the main graph whose condition is constant; True if any was."""
    decided = [node for node in model.graph if node.op_type == "If" and _condition(node) is not None]
    for node in decided:
        _take(model.graph, node, "then_branch" if _condition(node) else "else_branch")
    return bool(decided)


def _condition(node: ir.Node) -> bool | None:
    value = node.inputs[0]
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    return bool(np.asarray(value.const_value.numpy()).item())


def _take(graph: ir.Graph, node: ir.Node, name: str) -> None:
    branch = node.attributes[name].as_graph()
    results = list(branch.outputs)
    branch.outputs.clear()
    nodes = list(branch)
    branch.remove(nodes)
    for key, initializer in list(branch.initializers.items()):
        del branch.initializers[key]
        graph.register_initializer(initializer)
    graph.insert_before(node, nodes)
    for result, output in zip(results, node.outputs, strict=True):
        if output.is_graph_output():
            copy = ir.node("Identity", [result], name=f"{output.name}.taken")
            copy.outputs[0].type, copy.outputs[0].shape = result.type, result.shape
            graph.insert_before(node, copy)
            kept, output.name = output.name, f"{output.name}.untaken"
            copy.outputs[0].name = kept
            ir.convenience.replace_all_uses_with(output, copy.outputs[0], replace_graph_outputs=True)
        else:
            ir.convenience.replace_all_uses_with(output, result)
    graph.remove(node, safe=True)
