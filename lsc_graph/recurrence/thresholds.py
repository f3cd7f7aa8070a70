"""Steps with zero derivative on the gradient's way: thresholds and roundings that feed numbers on."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx_ir as ir

from lsc_graph.recurrence.dataflow import computed_from

COMPARISONS = frozenset(("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"))
_STEPS = frozenset(("Sign", "Floor", "Ceil", "Round", "ArgMax", "ArgMin"))
_LOGICAL = frozenset(("Not", "And", "Or", "Xor", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Transpose"))


def cut_points(graph: ir.Graph, sources: Iterable[ir.Value]) -> list[ir.Node]:
    """Nodes computed from `sources` whose derivative is zero, and whose result is used as a number.

    A comparison that only selects (the condition of a Where) keeps the gradient of what it selects and
    is not listed; one that is cast to a number, as in a spiking neuron, or selects constants, is.
    """
    nodes, dependent = computed_from(graph, sources)
    return [node for node in nodes if _cuts(node, dependent)]


def _cuts(node: ir.Node, dependent: Collection[ir.Value]) -> bool:
    if node.op_type in COMPARISONS:
        return _feeds_a_number(node.outputs[0], dependent)
    return node.op_type in _STEPS or _is_cast_to_integer(node)


def _is_cast_to_integer(node: ir.Node) -> bool:
    value = node.inputs[0] if node.inputs else None
    if node.op_type != "Cast" or value is None or value.dtype is None:
        return False
    return value.dtype.is_floating_point() and ir.DataType(node.attributes["to"].as_int()).is_integer()


def _feeds_a_number(value: ir.Value, dependent: Collection[ir.Value]) -> bool:
    for use in value.uses():
        node = use.node
        if node.op_type == "Cast":
            return True
        if node.op_type == "Where" and (use.idx > 0 or not any(v in dependent for v in node.inputs[1:])):
            return True
        if node.op_type in _LOGICAL and _feeds_a_number(node.outputs[0], dependent):
            return True
    return False
