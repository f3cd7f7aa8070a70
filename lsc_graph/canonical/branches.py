"""If nodes: a branch that is known to be taken replaces them; else both are computed and one is selected."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.rewiring import forget_insides, inner_graphs, put_in_place
from lsc_graph.canonical.shapes import static_shape

LOOPING = frozenset(("RNN", "GRU", "LSTM", "Scan", "Loop"))
MAX_TRIPS = 2**20
BRANCH, CONDITION, TAKEN_IF = "lsc_graph.branch", "lsc_graph.condition", "lsc_graph.taken_if"
"""Metadata of a node that stood in a branch: in words, the value that decides, and what it has to be."""


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


def select_open_branches(model: ir.Model) -> bool:
    """Let Where choose between both branches of every If that data decide; True if any was.

    What is computed stays the same, and one graph of plain operators can be differentiated for many points
    at once. Only where both give tensors of one known shape, and no branch holds a loop that might not end
    unless its branch is taken. What comes out of a branch is marked, see `BRANCH`.
    """
    is_changed = False
    pending = [model.graph]
    while pending:
        graph = pending.pop()
        for node in [node for node in graph if _can_be_selected(node)]:
            _select(graph, node)
            is_changed = True
        pending += [inner for node in graph for inner in inner_graphs(node)]
    return is_changed


def _can_be_selected(node: ir.Node) -> bool:
    if node.op_type != "If" or node.domain or node.inputs[0] is None or _condition(node) is not None:
        return False
    return why_not_selected(node) is None


def why_not_selected(node: ir.Node) -> str | None:
    """Why the branches of an If cannot both be computed and one of them be selected; None if they can."""
    branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    endless = next((own for branch in branches for own in branch.all_nodes() if _may_not_end(own)), None)
    if endless is not None:
        name = endless.name or endless.outputs[0].name
        return f"how often Loop {name} may run is not known before the branch is taken"
    pairs = zip(*(branch.outputs for branch in branches), strict=True)
    return next((_why_unlike(one, other) for one, other in pairs if not _are_alike(one, other)), None)


def _may_not_end(node: ir.Node) -> bool:
    """Whether a node is a Loop without a known bound on its trip count."""
    if node.op_type != "Loop" or node.domain not in ("", "ai.onnx"):
        return False
    bound = node.inputs[0].const_value if node.inputs[0] is not None else None
    return bound is None or bound.size != 1 or int(bound.numpy().item()) > MAX_TRIPS


def _why_unlike(one: ir.Value, other: ir.Value) -> str:
    if not all(isinstance(value.type, ir.TensorType) for value in (one, other)):
        return f"they give {one.name} or {other.name}, which are no tensors"
    if one.dtype != other.dtype:
        return f"they give {one.name} of {one.dtype} or {other.name} of {other.dtype}"
    unknown = [value.name for value in (one, other) if static_shape(value) is None]
    if unknown:
        return f"the size of their result {' or '.join(map(str, unknown))} is not known"
    return f"they give {one.name} of shape {static_shape(one)} or {other.name} of {static_shape(other)}"


def _are_alike(one: ir.Value, other: ir.Value) -> bool:
    shape = static_shape(one)
    is_tensor = isinstance(one.type, ir.TensorType) and one.dtype == other.dtype
    return is_tensor and shape is not None and shape == static_shape(other)


def _select(graph: ir.Graph, node: ir.Node) -> None:
    condition, outputs = node.inputs[0], list(node.outputs)
    for name in ("then_branch", "else_branch"):
        _mark(node, name)
    results = [_moved_out(graph, node, name) for name in ("then_branch", "else_branch")]
    empty = ir.node("Constant", [], attributes={"value": ir.tensor(np.array([], dtype=np.int64))})
    scalar = ir.node("Reshape", [condition, empty.outputs[0]])
    scalar.outputs[0].shape, scalar.outputs[0].dtype = ir.Shape([]), ir.DataType.BOOL
    chosen = [ir.node("Where", [scalar.outputs[0], a, b]) for a, b in zip(*results, strict=True)]
    graph.insert_before(node, [empty, scalar, *chosen])
    for one, output, like in zip(chosen, outputs, results[0], strict=True):
        one.outputs[0].shape, one.outputs[0].type = like.shape, like.type
        put_in_place(output, one.outputs[0])
    graph.remove(node, safe=True)
    forget_insides(node)


def _mark(node: ir.Node, name: str) -> None:
    """Note on the nodes of a branch where they come from."""
    condition = node.inputs[0]
    for inner in node.attributes[name].as_graph().all_nodes():
        if condition is not None and BRANCH not in inner.metadata_props:
            branch = f"the {name.removesuffix('_branch')} branch of {node.name or node.outputs[0].name}"
            inner.metadata_props[BRANCH] = branch
            inner.metadata_props[CONDITION] = str(condition.name)
            inner.metadata_props[TAKEN_IF] = str(name == "then_branch")


def _condition(node: ir.Node) -> bool | None:
    """What the condition of an If is, where it is a constant; None for all other nodes."""
    if node.op_type != "If" or node.domain or node.inputs[0] is None:
        return None
    value = node.inputs[0]
    if value.const_value is None or not value.is_initializer() or value.const_value.size != 1:
        return None
    return bool(value.const_value.numpy().item())


def _take(graph: ir.Graph, node: ir.Node, name: str) -> None:
    results = _moved_out(graph, node, name)
    for result, output in zip(results, node.outputs, strict=True):
        put_in_place(output, result)
    graph.remove(node, safe=True)
    forget_insides(node)


def _moved_out(graph: ir.Graph, node: ir.Node, name: str) -> list[ir.Value]:
    """A branch's nodes in front of the If, and what the branch gives."""
    branch = node.attributes[name].as_graph()
    results = list(branch.outputs)
    branch.outputs.clear()
    nodes = list(branch)
    branch.remove(nodes)
    graph.insert_before(node, nodes)
    return results
