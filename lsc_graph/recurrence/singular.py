"""Operators without a finite derivative at some points, as Log at zero, and what keeps them from there."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

# fmt: off
_AT_ZERO = frozenset({"Log", "Sqrt", "Reciprocal"})
_ELSEWHERE = frozenset({
    "Acos", "Acosh", "Asin", "Atanh", "LpNormalization", "ReduceL2", "ReduceLogSum", "ReduceProd", "Tan",
})
# fmt: on
_POSITIVE = frozenset(("Exp", "Sigmoid", "Softplus"))
_KEEPING = frozenset(("Cast", "Expand", "Identity", "Reciprocal", "Reshape", "Sqrt"))
_AT_LEAST = frozenset(("Add", "Clip", "Max", "Sum"))


def may_be_singular(node: ir.Node, index: int, source: ir.Value) -> bool:
    """Whether a node's derivative by an input may be infinite or undefined at some value of a source of it.

    What stands under a root or is divided by is taken to stay away from zero where a positive number is
    added to it, or it is an exponential: so it does in normalisations.
    """
    value = node.inputs[index]
    if node.op_type in _ELSEWHERE:
        return True
    is_risky = node.op_type in _AT_ZERO or (node.op_type == "Div" and index == 1)
    if node.op_type == "Pow":
        exponent = _numbers(node.inputs[1])
        is_risky = index == 1 or exponent is None or bool(((exponent < 1) | (exponent % 1 != 0)).any())
    return is_risky and not (value is not None and _is_positive(value, source))


def _is_positive(value: ir.Value, source: ir.Value) -> bool:
    """Whether a value is above zero whatever a source of it is."""
    if value is source:
        return False
    numbers, node = _numbers(value), value.producer()
    if numbers is not None:
        return bool((numbers > 0).all())
    if node is None:
        return False
    given = [own for own in node.inputs if own is not None]
    if node.op_type in _KEEPING:
        return _is_positive(given[0], source)
    if node.op_type in _AT_LEAST:
        return any(_is_positive(own, source) for own in (given[:2] if node.op_type == "Clip" else given))
    return node.op_type in _POSITIVE


def _numbers(value: ir.Value | None) -> np.ndarray | None:
    return value.const_value.numpy() if value is not None and value.const_value is not None else None
