"""Numbers and indices that jump: results of operators, beside thresholds, that the gradient does not pass."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import onnx_ir as ir

from lsc_graph.recurrence.dataflow import computed_from

# What jumps, by which of the results: flags, indices, or numbers.
_JUMPS = {
    "Hardmax": (0,),
    "IsNaN": (0,),
    "IsInf": (0,),
    "TopK": (1,),
    "NonZero": (0,),
    "MaxPool": (1,),
    "Unique": (1, 2, 3),
}
_MOVES = frozenset(
    (
        "Not",
        "And",
        "Or",
        "Xor",
        "Identity",
        "Reshape",
        "Unsqueeze",
        "Squeeze",
        "Transpose",
        "Expand",
        "Flatten",
    )
)
# Indices are counted from elsewhere, and put together, before they choose.
_COUNTS = frozenset(
    ("Add", "Sub", "Mul", "Div", "Mod", "Neg", "Min", "Max", "Concat", "Slice", "Split", "Tile")
)
_GATHERS = frozenset(("Gather", "GatherElements", "GatherND"))
_SCATTERS = frozenset(("ScatterElements", "ScatterND", "Scatter"))


def jumps(graph: ir.Graph, sources: Iterable[ir.Value]) -> list[ir.Node]:
    """Nodes computed from `sources` of which a result jumps, and is used as a number.

    What only chooses among values that depend on the sources keeps their gradient, and is not listed.
    """
    nodes, dependent = computed_from(graph, sources)
    return [node for node in nodes if any(_is_number(own, dependent) for own in _jumping(node))]


def _jumping(node: ir.Node) -> Iterator[ir.Value]:
    if _is_truth_of_a_number(node):
        yield node.outputs[0]
    for index in _JUMPS.get(node.op_type, ()):
        if index < len(node.outputs):
            yield node.outputs[index]


def _is_truth_of_a_number(node: ir.Node) -> bool:
    value = node.inputs[0] if node.inputs else None
    if node.op_type != "Cast" or value is None or value.dtype is None:
        return False
    return value.dtype.is_floating_point() and node.attributes["to"].as_int() == ir.DataType.BOOL


def _is_number(value: ir.Value, dependent: Collection[ir.Value]) -> bool:
    """Whether a result that jumps is a number, or becomes one; not if it only chooses what depends."""
    if value.dtype is not None and value.dtype.is_floating_point():
        return True
    return any(_makes_a_number(use.node, use.idx, dependent) for use in value.uses())


def _makes_a_number(node: ir.Node, index: int, dependent: Collection[ir.Value]) -> bool:
    def depend(*numbers: int) -> bool:
        return any(node.inputs[number] in dependent for number in numbers if number < len(node.inputs))

    if node.op_type == "Cast":
        return _is_number(node.outputs[0], dependent)
    if node.op_type == "Where":
        return not depend(1, 2) if index == 0 else _is_number(node.outputs[0], dependent)
    if node.op_type in _GATHERS:
        return not depend(0) if index == 1 else _is_number(node.outputs[0], dependent)
    if node.op_type in _SCATTERS and index == 1:
        return not depend(0, 2)
    if node.op_type in _MOVES or node.op_type in _COUNTS:
        return any(_is_number(own, dependent) for own in node.outputs)
    return node.op_type == "OneHot"
