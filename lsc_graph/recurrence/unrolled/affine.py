"""Operators whose output is an affine function of one of their inputs, or of several together."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx_ir as ir

_AFFINE = frozenset(("Add", "Sub", "Mul", "Div", "Neg", "MatMul", "Gemm", "Identity"))
_SHAPING = frozenset(("Unsqueeze", "Squeeze", "Reshape", "Flatten", "Transpose"))
_SUMS = frozenset(("Add", "Sub", "Sum", "Mean", "Neg", "Identity", "Concat"))
_PRODUCTS = frozenset(("Mul", "MatMul", "Einsum", "Conv", "ConvTranspose"))
_OF_FIRST = _SHAPING | frozenset(
    ("Div", "Slice", "Split", "Gather", "Expand", "Tile", "Pad", "ReduceSum", "ReduceMean", "CumSum")
)


def is_affine(node: ir.Node, value: ir.Value) -> bool:
    """Whether a node's output is an affine function of one of its inputs, the others being fixed.

    What a nonlinearity gives may be meant as a state beside its argument, such as spikes beside voltages.
    """
    is_divisor = node.op_type == "Div" and node.inputs[0] is not value
    return node.domain in ("", "ai.onnx") and node.op_type in _AFFINE | _SHAPING and not is_divisor


def is_affine_way(nodes: Iterable[ir.Node], states: Collection[ir.Value], also: Collection[str] = ()) -> bool:
    """Whether all that nodes, in order, compute is an affine function of all states together.

    Operators that are `also` taken for affine leave what they read as it is.
    """
    moving = set(states)
    for node in nodes:
        places = [position for position, value in enumerate(node.inputs) if value in moving]
        if places and not (_is_affine_at(node, places) or node.op_type in also):
            return False
        moving.update(node.outputs if places else ())
    return True


def _is_affine_at(node: ir.Node, places: list[int]) -> bool:
    """Whether a node is affine in what it reads at some places, all of it together."""
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "Gemm":
        return not {0, 1} <= set(places)
    is_product = node.op_type in _PRODUCTS and len(places) == 1
    return node.op_type in _SUMS or is_product or (node.op_type in _OF_FIRST and places == [0])
