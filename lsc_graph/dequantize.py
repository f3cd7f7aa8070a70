"""Quantised weights as floats: what the audit of a quantised model differentiates."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from lsc_graph.integer_ops import expand_integer_ops
from lsc_graph.proto_walk import Scope, model_scopes
from lsc_graph.reference import Array

_MICROSOFT = "com.microsoft"
_LSTM_INPUTS = 8


def is_quantized(proto: onnx.ModelProto) -> bool:
    """Whether a model computes with integers in place of floats anywhere."""
    return any(
        "quantize" in node.op_type.lower() or node.op_type.endswith("Integer") for node in _nodes(proto)
    )


def dequantized(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A copy that computes with floats, and the names of what was replaced.

    DequantizeLinear of constants becomes the constant; a value that is quantised and dequantised again is
    left as it is; DynamicQuantizeLSTM and DynamicQuantizeMatMul (com.microsoft) become LSTM and MatMul, and
    integer operators those of `integer_ops`. Other quantised operators stay.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    expanded = expand_integer_ops(copy)
    rewriter = _Rewriter(copy)
    for scope in list(model_scopes(copy)):
        rewriter.rewrite(scope)
    return copy, tuple(dict.fromkeys((*expanded, *rewriter.replaced)))


def _nodes(proto: onnx.ModelProto) -> Iterable[NodeProto]:
    return (node for scope in model_scopes(proto) for node in scope.node)


class _Rewriter:
    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.replaced: list[str] = []
        self.constants: dict[str, Array] = {}
        for scope in model_scopes(proto):
            for tensor in getattr(scope, "initializer", ()):
                self.constants[tensor.name] = numpy_helper.to_array(tensor)
            for node in scope.node:
                if node.op_type == "Constant" and node.attribute[0].name == "value":
                    self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)

    def rewrite(self, scope: Scope) -> None:
        producers = {name: node for node in scope.node for name in node.output}
        nodes: list[NodeProto] = []
        for node in scope.node:
            nodes += self._replacement(node, producers)
        del scope.node[:]
        scope.node.extend(nodes)

    def _replacement(self, node: NodeProto, producers: dict[str, NodeProto]) -> list[NodeProto]:
        if node.op_type == "DequantizeLinear":
            return self._dequantize_linear(node, producers)
        if node.domain == _MICROSOFT and node.op_type == "DynamicQuantizeLSTM":
            return self._lstm(node)
        if node.domain == _MICROSOFT and node.op_type == "DynamicQuantizeMatMul":
            return self._matmul(node)
        return [node]

    def _note(self, node: NodeProto) -> None:
        self.replaced.append(node.name or node.output[0])

    def _weight(self, node: NodeProto, name: str, array: Array) -> NodeProto:
        """A Constant that holds a dequantised weight, kept apart for every node that needs it."""
        self._note(node)
        return helper.make_node("Constant", [], [name], name=name, value=numpy_helper.from_array(array, name))

    def _dequantize_linear(self, node: NodeProto, producers: dict[str, NodeProto]) -> list[NodeProto]:
        source = producers.get(node.input[0])
        if source is not None and source.op_type == "QuantizeLinear":
            self._note(node)
            return [helper.make_node("Identity", [source.input[0]], list(node.output), name=node.name)]
        arrays = [self.constants.get(name) for name in node.input]
        if any(array is None for array in arrays):
            return [node]
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if attributes.get("block_size"):
            return [node]
        zero = arrays[2] if len(arrays) > 2 else None
        axis = int(attributes.get("axis", 1))
        return [self._weight(node, node.output[0], _floats(arrays[0], arrays[1], zero, axis))]

    def _lstm(self, node: NodeProto) -> list[NodeProto]:
        """W and R are [dirs,D,4H] and [dirs,H,4H], scaled for each direction or each column."""
        inputs = list(node.input) + [""] * (_LSTM_INPUTS + 4 - len(node.input))
        made = []
        for position, scale, zero in ((1, 8, 9), (2, 10, 11)):
            arrays = [self.constants.get(inputs[index]) for index in (position, scale, zero)]
            if arrays[0] is None or arrays[1] is None:
                return [node]
            floats = _by_direction(arrays[0], arrays[1], arrays[2])
            name = f"{node.output[0] or node.name}.{'WR'[position - 1]}.floats"
            made.append(self._weight(node, name, np.ascontiguousarray(floats.transpose(0, 2, 1))))
            inputs[position] = name
        known = {"activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size"}
        lstm = helper.make_node("LSTM", inputs[:_LSTM_INPUTS], list(node.output), name=node.name)
        lstm.attribute.extend(a for a in node.attribute if a.name in known | {"input_forget"})
        return [*made, lstm]

    def _matmul(self, node: NodeProto) -> list[NodeProto]:
        inputs = list(node.input) + [""] * (5 - len(node.input))
        arrays = [self.constants.get(name) for name in inputs[1:4]]
        if arrays[0] is None or arrays[1] is None:
            return [node]
        weight = f"{node.output[0]}.floats"
        made = [self._weight(node, weight, _floats(arrays[0], arrays[1], arrays[2], arrays[0].ndim - 1))]
        product = f"{node.output[0]}.product" if inputs[4] else node.output[0]
        made.append(helper.make_node("MatMul", [inputs[0], weight], [product], name=node.name))
        if inputs[4]:
            made.append(
                helper.make_node("Add", [product, inputs[4]], list(node.output), name=f"{product}.bias")
            )
        return made


def _floats(quantized: Array | None, scale: Array | None, zero: Array | None, axis: int) -> Array:
    """(q - zero) * scale, for the whole tensor or along one axis."""
    assert quantized is not None
    assert scale is not None
    along = [-1 if number == axis % max(quantized.ndim, 1) else 1 for number in range(quantized.ndim)]
    offset, factor = (
        array.astype(np.float64).reshape(along if array.size > 1 else ())
        for array in (np.zeros(1) if zero is None else zero, scale)
    )
    return np.asarray(((quantized.astype(np.float64) - offset) * factor).astype(scale.dtype))


def _by_direction(quantized: Array, scale: Array, zero: Array | None) -> Array:
    """As `_floats` for [dirs,K,N], with scales [dirs] or [dirs,N]."""
    dirs = quantized.shape[0]
    scales = scale.astype(np.float64).reshape(dirs, 1, -1)
    offsets = 0 if zero is None else zero.astype(np.float64).reshape(dirs, 1, -1)
    return np.asarray(((quantized.astype(np.float64) - offsets) * scales).astype(np.float32))
