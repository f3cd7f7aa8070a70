"""Operators that read several positions of what they are given, as time-parallel layers do."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.dataflow import inputs_of

_ACROSS = frozenset(
    (
        "CumSum",
        "CumProd",
        "Attention",
        "LinearAttention",
        "CausalConvWithState",
        "MultiHeadAttention",
        "GroupQueryAttention",
        "InstanceNormalization",
        "GroupNormalization",
    )
)
_WINDOWED = frozenset(("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"))
_BETWEEN = frozenset(("Cast", "Dropout", "Identity", "Mul", "Reshape", "Transpose", "Where", "Expand"))
_MOST_BETWEEN = 6


def reads_across(node: ir.Node, moving: Collection[ir.Value]) -> bool:
    """Whether a node puts values of several positions together.

    Windows and running sums do, attention, statistics over positions, and what is shifted against itself, as
    in a scan by doubling.

    Args:
        node: any node.
        moving: the values that depend on the inputs.
    """
    if node.op_type in _ACROSS:
        return True
    if node.op_type in _WINDOWED:
        return _window(node) > 1
    if node.op_type in ("MatMul", "Einsum"):
        given = list(inputs_of(node))
        return all(own in moving for own in given) and any(map(_is_softmax, given))
    if node.op_type in ("Pad", "Concat"):
        return _is_shift(node, moving)
    return node.op_type == "Slice" and node.inputs[0] in moving and _meets_another(node)


def _window(node: ir.Node) -> int:
    kernel = node.attributes.get("kernel_shape")
    if kernel is not None:
        return max(kernel.as_ints(), default=1)
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    shape = static_shape(weight) if weight is not None else None
    return max((shape or ())[2:], default=1)


def _is_softmax(value: ir.Value) -> bool:
    """Whether a value is made of weights of attention, a few operators back."""
    node = value.producer()
    for _ in range(_MOST_BETWEEN):
        if node is None or node.op_type not in _BETWEEN:
            break
        sources = [own.producer() for own in inputs_of(node)]
        node = next((own for own in sources if own is not None), None)
    return node is not None and node.op_type == "Softmax"


def _is_shift(node: ir.Node, moving: Collection[ir.Value]) -> bool:
    """Whether a part of a value is filled up to its size again."""
    parts = [own for own in inputs_of(node) if own in moving]
    taken = parts[0].producer() if len(parts) == 1 else None
    if taken is None or taken.op_type != "Slice" or taken.inputs[0] is None:
        return False
    return static_shape(taken.inputs[0]) == static_shape(node.outputs[0]) is not None


def _meets_another(node: ir.Node) -> bool:
    """Whether another part of the same value is read that overlaps this one, or lies between."""
    source, own = node.inputs[0], _lengths(node)
    others = [use.node for use in source.uses() if use.node is not node] if source is not None else []
    return any(
        other.op_type == "Slice" and not _starts_alike(node, other) and _overlap(own, _lengths(other))
        for other in others
    )


def _lengths(node: ir.Node) -> list[tuple[bool, int, int]]:
    """For each axis: whether a Slice leaves any of the source out, how far it reaches, the source's size."""
    source, result = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    if source is None or result is None:
        return []
    steps = _numbers(node, 4)
    stride = int(np.abs(steps).max()) if steps is not None and steps.size else 1
    pairs = zip(source, result, strict=True)
    return [(own < size, min(size, own * stride) if own < size else size, size) for size, own in pairs]


def _overlap(first: list[tuple[bool, int, int]], second: list[tuple[bool, int, int]]) -> bool:
    pairs = list(zip(first, second, strict=False))
    cut = [(one, two, size) for (own, one, size), (other, two, _) in pairs if own or other]
    return bool(cut) and all(one + two > size for one, two, size in cut)


def _starts_alike(node: ir.Node, other: ir.Node) -> bool:
    one, two = _numbers(node, 1), _numbers(other, 1)
    return one is not None and two is not None and np.array_equal(one, two)


def _numbers(node: ir.Node, position: int) -> np.ndarray | None:
    value = node.inputs[position] if position < len(node.inputs) else None
    return value.const_value.numpy() if value is not None and value.const_value is not None else None
