"""One node computed from known inputs, by onnx's own reference implementation of its operator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from lsc_graph.canonical.shapes import static_shape

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
# The size of what these return depends on values, and is never much more than the size of what they read.
_SELECTING = frozenset(["Compress", "NonZero", "Unique"])


def evaluate(node: ir.Node, arrays: Arrays, opset: int) -> list[Array] | None:
    """The node's outputs, or None where they are not small, not certain, or not implemented.

    Args:
        node: its outputs' shapes are inferred already. Random, looping and custom operators are never run.
        arrays: its inputs; None for those left out.
        opset: version of the default operator set.
    """
    if node.domain or node.op_type in _RANDOM or node.op_type in _LOOPING or not _is_small(node):
        return None
    names = [f"x{index}" if array is not None else "" for index, array in enumerate(arrays)]
    feed = {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
    try:
        with np.errstate(divide="raise", invalid="raise", over="ignore", under="ignore"):
            found = ReferenceEvaluator(_alone(node, names, feed, opset)).run(None, feed)
        if any(isinstance(value, list) for value in found):
            return None  # a sequence of tensors is no array
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


def _is_small(node: ir.Node) -> bool:
    """Whether the outputs are known to be small before they are computed."""
    if node.op_type in _SELECTING:
        return True
    shapes = [static_shape(value) for value in node.outputs]
    return all(shape is not None and math.prod(shape) <= MAX_ELEMENTS for shape in shapes)
