"""One node computed from known inputs, by onnx's own reference implementation of its operator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from lsc_graph.shapes import static_shape

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = Sequence[Array | None]

MAX_ELEMENTS = 4096
_RANDOM = frozenset(
    [
        "Bernoulli",
        "Dropout",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    ]
)
_LOOPING = frozenset(["If", "Loop", "Scan", "SequenceMap", "RNN", "GRU", "LSTM"])
_ELEMENTWISE = frozenset(
    ["Abs", "Add", "And", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "Ceil", "Clip", "Div", "Equal", "Exp", "Floor", "Greater", "GreaterOrEqual", "Identity", "IsInf", "IsNaN", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Round", "Sign", "Sqrt", "Sub", "Sum", "Where", "Xor"]
)
_NOT_GROWING = frozenset(
    ["ArgMax", "ArgMin", "Compress", "Concat", "CumSum", "Flatten", "GatherElements", "NonZero", "Reshape", "ScatterElements", "ScatterND", "Slice", "Split", "Squeeze", "TopK", "Transpose", "Trilu", "Unique", "Unsqueeze", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"]
)
# How many elements the first output has, for operators whose output grows with the values of their inputs.
_GROWTH: dict[str, Callable[[Arrays], int]] = {
    "ConstantOfShape": lambda a: _product(a[0]),
    "Expand": lambda a: max(_size(a[0]), 1) * max(_product(a[1]), 1),
    "Gather": lambda a: _size(a[0]) * _size(a[1]),
    "GatherND": lambda a: _size(a[0]) * _size(a[1]),
    "Range": lambda a: _range_length(*a),
    "Tile": lambda a: _size(a[0]) * _product(a[1]),
}


def evaluate(node: ir.Node, arrays: Arrays, opset: int) -> list[Array] | None:
    """The node's outputs, or None where they are not small, not certain, or not implemented.

    Args:
        node: any node; random, looping and custom operators are never run.
        arrays: its inputs; None for those left out.
        opset: version of the default operator set.
    """
    if node.domain or node.op_type in _RANDOM or node.op_type in _LOOPING or _size_of(node, arrays) is None:
        return None
    names = [f"x{index}" if array is not None else "" for index, array in enumerate(arrays)]
    feed = {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
    try:
        with np.errstate(divide="raise", invalid="raise", over="ignore", under="ignore"):
            found = ReferenceEvaluator(_alone(node, names, feed, opset)).run(None, feed)
        outputs = [np.asarray(value) for value in found]
    except Exception:  # whatever a reference implementation trips over: the node simply stays.
        return None
    is_small = all(array.dtype.kind in "iubf" and array.size <= MAX_ELEMENTS for array in outputs)
    return outputs if is_small else None


def _alone(node: ir.Node, names: list[str], feed: Mapping[str, Array], opset: int) -> onnx.ModelProto:
    """A model of this node only."""
    helper = onnx.helper
    single = helper.make_node(node.op_type, names, [f"y{index}" for index in range(len(node.outputs))])
    single.attribute.extend(ir.serde.serialize_node(node).attribute)
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feed.items()
    ]
    results = [onnx.ValueInfoProto(name=name) for name in single.output]
    graph = helper.make_graph([single], "node", inputs, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def _size_of(node: ir.Node, arrays: Arrays) -> int | None:
    """How many elements the first output will have at most; None if too many, or if nobody knows."""
    try:
        size = _bound(node, arrays)
    except (TypeError, ValueError, IndexError, OverflowError, ZeroDivisionError):
        return None
    return size if size is not None and size <= MAX_ELEMENTS else None


def _bound(node: ir.Node, arrays: Arrays) -> int | None:
    present = [array for array in arrays if array is not None]
    if node.op_type in _ELEMENTWISE:
        return math.prod(np.broadcast_shapes(*(array.shape for array in present)))
    if node.op_type in _NOT_GROWING:
        return sum(array.size for array in present) - (len(present) - 1) * (node.op_type != "Concat")
    if node.op_type in _GROWTH:
        return _GROWTH[node.op_type](arrays)
    shapes = [static_shape(value) for value in node.outputs]
    return (
        max((math.prod(shape) for shape in shapes if shape is not None), default=0)
        if None not in shapes
        else None
    )


def _size(array: Array | None) -> int:
    return 0 if array is None else array.size


def _product(array: Array | None) -> int:
    return 0 if array is None else math.prod(int(value) for value in array.reshape(-1))


def _range_length(start: Array | None, limit: Array | None, delta: Array | None) -> int:
    if start is None or limit is None or delta is None:
        return 0
    return max(math.ceil((limit.item() - start.item()) / delta.item()), 0)
