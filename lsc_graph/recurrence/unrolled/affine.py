"""Operators whose output is an affine function of one of their inputs."""

from __future__ import annotations

import onnx_ir as ir

_AFFINE = frozenset(("Add", "Sub", "Mul", "Div", "Neg", "MatMul", "Gemm", "Identity"))
_SHAPING = frozenset(("Unsqueeze", "Squeeze", "Reshape", "Flatten", "Transpose"))


def is_affine(node: ir.Node, value: ir.Value) -> bool:
    """Whether a node's output is an affine function of one of its inputs, the others being fixed.

    What a nonlinearity gives may be meant as a state beside its argument, such as spikes beside voltages.
    """
    is_divisor = node.op_type == "Div" and node.inputs[0] is not value
    return node.domain in ("", "ai.onnx") and node.op_type in _AFFINE | _SHAPING and not is_divisor
