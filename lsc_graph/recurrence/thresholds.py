"""Steps with zero derivative on the gradient's way: thresholds and roundings that feed numbers on."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from lsc_graph.recurrence.dataflow import inputs_of

COMPARISONS = frozenset(("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"))
_STEPS = frozenset(("Sign", "Floor", "Ceil", "Round", "ArgMax", "ArgMin"))
_LOGICAL = frozenset(("Not", "And", "Or", "Xor", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Transpose"))


def cut_points(graph: ir.Graph, sources: Iterable[ir.Value]) -> list[ir.Node]:
    """Nodes computed from `sources` whose derivative is zero, and whose result is used as a number.

    A comparison that only selects (the condition of a Where) keeps the gradient of what it selects and
    is not listed; one that is cast to a number, as in a spiking neuron, is.
    """
    dependent = set(sources)
    found = []
    for node in graph:
        if not any(value in dependent for value in inputs_of(node)):
            continue
        dependent.update(node.outputs)
        if (
            node.op_type in _STEPS
            or _is_cast_to_integer(node)
            or (node.op_type in COMPARISONS and _feeds_a_number(node.outputs[0]))
        ):
            found.append(node)
    return found


def _is_cast_to_integer(node: ir.Node) -> bool:
    value = node.inputs[0] if node.inputs else None
    if node.op_type != "Cast" or value is None or value.dtype is None:
        return False
    return value.dtype.is_floating_point() and ir.DataType(node.attributes["to"].as_int()).is_integer()


def _feeds_a_number(value: ir.Value) -> bool:
    for use in value.uses():
        if use.node.op_type == "Cast":
            return True
        if use.node.op_type == "Where" and use.idx > 0:
            return True
        if use.node.op_type in _LOGICAL and _feeds_a_number(use.node.outputs[0]):
            return True
    return False
