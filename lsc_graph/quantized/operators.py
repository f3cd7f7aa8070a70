"""Operators of quantised values, one by one, as operators of floats that are not rounded.

Each rule writes the replacement and returns whether there is one. The operators are those of ONNX and those
that ONNX Runtime adds (domain com.microsoft).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import NodeProto, TensorProto

from lsc_graph.quantized.numbers import INTEGERS, by_direction, integers
from lsc_graph.quantized.unrounded import ARITHMETIC, THROUGH, Unrounded, attributes_of, elem_type_of

Rule = Callable[[Unrounded, NodeProto], bool]
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_LSTM_INPUTS = 8


def _inputs(node: NodeProto, count: int) -> list[str]:
    """Input names, those left out as empty ones."""
    return [*node.input, *[""] * (count - len(node.input))][:count]


def _dynamic_quantize_linear(to: Unrounded, node: NodeProto) -> bool:
    """Infinitely fine steps from the start: the value itself, scale 1, zero point 0."""
    value, scale, zero = node.output
    if not to.stays_inside([value, zero], _ends_in_floats):
        return False
    to.emit("Identity", [node.input[0]], value)
    to.constant(np.asarray(1, np.float32), scale)
    to.constant(np.asarray(0, np.float32), zero)
    to.floats |= {value: TensorProto.UINT8, zero: TensorProto.UINT8}
    return True


def _ends_in_floats(node: NodeProto) -> bool:
    if node.op_type == "Cast":
        return attributes_of(node)["to"] in _FLOATS
    return node.op_type in ("MatMulIntegerToFloat", "DequantizeLinear")


def _quantize_linear(to: Unrounded, node: NodeProto) -> bool:
    """Constants are rounded, as nobody differentiates by them here; values are not."""
    source, scale, zero = _inputs(node, 3)
    attributes = attributes_of(node)
    elem_type = int(attributes.get("output_dtype") or elem_type_of(to.constants.get(zero)))
    if attributes.get("block_size") or elem_type not in INTEGERS:
        return False
    known, factor, offset = (to.constants.get(name) for name in (source, scale, zero))
    if known is None or factor is None or (zero and offset is None):
        return to.quantize(source, scale, zero, elem_type, node.output[0])
    axis = int(attributes.get("axis", 1))
    to.constant(integers(known, factor, offset, axis, elem_type), node.output[0])
    return True


def _dequantize_linear(to: Unrounded, node: NodeProto) -> bool:
    source, scale, zero = _inputs(node, 3)
    attributes = attributes_of(node)
    if attributes.get("block_size"):
        return False
    axis = int(attributes.get("axis", 1))
    if to.real(source, scale, zero, axis, node.output[0]) is not None:
        return True
    maker = to.producers.get(source)
    if maker is None or maker.op_type != "QuantizeLinear":
        return False
    to.emit("Identity", [maker.input[0]], node.output[0])
    return True


def _cast(to: Unrounded, node: NodeProto) -> bool:
    source, wanted = node.input[0], int(attributes_of(node)["to"])
    if not to.is_float(source) or wanted == TensorProto.BOOL:
        return False
    if wanted in _FLOATS:
        to.emit("Cast", [source], node.output[0], to=wanted)
    else:
        to.emit("Identity", [source], node.output[0])
        to.floats[node.output[0]] = wanted
    return True


def _product_of_integers(op_type: str, weight_axis: int) -> Rule:
    """MatMulInteger and ConvInteger."""

    def rule(to: Unrounded, node: NodeProto) -> bool:
        a, b, a_zero, b_zero = _inputs(node, 4)
        are_known = a in to.constants and b in to.constants
        if not (are_known or to.is_float(a) or to.is_float(b)):
            return False
        left, right = to.steps(a, a_zero, -2), to.steps(b, b_zero, weight_axis)
        if left is None or right is None:
            return False
        to.alike(node, op_type, [left, right], node.output[0])
        to.floats[node.output[0]] = TensorProto.INT32
        return True

    return rule


def _matmul_integer_to_float(to: Unrounded, node: NodeProto) -> bool:
    a, b, a_scale, b_scale, a_zero, b_zero, bias = _inputs(node, 7)
    right = to.real(b, b_scale, b_zero, -1)
    left = to.steps(a, a_zero, -2) if to.is_float(a) else None
    if left is None or right is None:
        return False
    scaled = to.emit("Mul", [left, a_scale])
    product = to.emit("MatMul", [scaled, right], "" if bias else node.output[0])
    if bias:
        to.emit("Add", [product, bias], node.output[0])
    return True


def _requantized(to: Unrounded, real: str, scale: str, zero: str, output: str) -> bool:
    return to.quantize(real, scale, zero, elem_type_of(to.constants.get(zero)), output)


def _bias(to: Unrounded, name: str, *scales: str, alpha: float = 1.0) -> list[str] | None:
    """A bias in steps of the product of both factors' scales, as a list of inputs; None if not known."""
    if not name:
        return []
    parts = [to.constants.get(part) for part in (name, *scales)]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    steps, first, second = known
    floats = (steps * (alpha * first * second)).astype(np.float32)
    return [to.constant(floats, to.named_after(name), of=name)]


def _qlinear_matmul(to: Unrounded, node: NodeProto) -> bool:
    a, a_scale, a_zero, b, b_scale, b_zero, scale, zero = _inputs(node, 8)
    left, right = to.real(a, a_scale, a_zero, -2), to.real(b, b_scale, b_zero, -1)
    if left is None or right is None:
        return False
    return _requantized(to, to.emit("MatMul", [left, right]), scale, zero, node.output[0])


def _qlinear_conv(to: Unrounded, node: NodeProto) -> bool:
    x, x_scale, x_zero, w, w_scale, w_zero, scale, zero, bias = _inputs(node, 9)
    left, right = to.real(x, x_scale, x_zero, 1), to.real(w, w_scale, w_zero, 0)
    if left is None or right is None:
        return False
    added = _bias(to, bias, x_scale, w_scale)
    if added is None:
        return False
    inputs = [left, right, *added]
    return _requantized(to, to.alike(node, "Conv", inputs, ""), scale, zero, node.output[0])


def _qgemm(to: Unrounded, node: NodeProto) -> bool:
    a, a_scale, a_zero, b, b_scale, b_zero, c, scale, zero = _inputs(node, 9)
    left = to.real(a, a_scale, a_zero, -2)
    right = to.real(b, b_scale, b_zero, 0 if attributes_of(node).get("transB") else -1)
    if left is None or right is None:
        return False
    added = _bias(to, c, a_scale, b_scale, alpha=float(attributes_of(node).get("alpha", 1.0)))
    if added is None:
        return False
    inputs = [left, right, *added]
    if not scale:
        to.alike(node, "Gemm", inputs, node.output[0])
        return True
    return _requantized(to, to.alike(node, "Gemm", inputs, ""), scale, zero, node.output[0])


def _reals(to: Unrounded, names: Sequence[str]) -> list[str] | None:
    """The values of operands that are given as (value, scale, zero point)."""
    operands = zip(names[::3], names[1::3], names[2::3], strict=True)
    found = [to.real(value, scale, zero, 1) for value, scale, zero in operands]
    reals = [real for real in found if real is not None]
    return reals if len(reals) == len(found) else None


def _elementwise(op_type: str, num_operands: int) -> Rule:
    """Operands as (value, scale, zero point), then scale and zero point of the result."""

    def rule(to: Unrounded, node: NodeProto) -> bool:
        if attributes_of(node).get("channels_last"):
            return False
        names = _inputs(node, 3 * num_operands + 2)
        reals = _reals(to, names[:-2])
        if reals is None:
            return False
        made = to.alike(node, op_type, reals, "")
        return _requantized(to, made, names[-2], names[-1], node.output[0])

    return rule


def _qlinear_concat(to: Unrounded, node: NodeProto) -> bool:
    scale, zero, *rest = node.input
    reals = _reals(to, rest)
    if reals is None:
        return False
    made = to.alike(node, "Concat", reals, "")
    return _requantized(to, made, scale, zero, node.output[0])


def _dynamic_quantize_matmul(to: Unrounded, node: NodeProto) -> bool:
    a, b, scale, zero, bias = _inputs(node, 5)
    weight = to.real(b, scale, zero, -1, f"{node.output[0]}.floats")
    if weight is None:
        return False
    product = to.emit("MatMul", [a, weight], f"{node.output[0]}.product" if bias else node.output[0])
    if bias:
        to.emit("Add", [product, bias], node.output[0])
    return True


def _dynamic_quantize_lstm(to: Unrounded, node: NodeProto) -> bool:
    """W and R are [dirs,D,4H] and [dirs,H,4H], scaled for each direction or each column."""
    inputs = _inputs(node, _LSTM_INPUTS + 4)
    for position, scale, zero in ((1, 8, 9), (2, 10, 11)):
        known, factor, offset = (to.constants.get(inputs[index]) for index in (position, scale, zero))
        if known is None or factor is None:
            return False
        floats = np.ascontiguousarray(by_direction(known, factor, offset).transpose(0, 2, 1))
        name = f"{node.output[0] or node.name}.{'WR'[position - 1]}.floats"
        inputs[position] = to.constant(floats, name, of=inputs[position])
    lstm = NodeProto(op_type="LSTM", name=node.name, input=inputs[:_LSTM_INPUTS], output=node.output)
    known_names = {"activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size"}
    lstm.attribute.extend(a for a in node.attribute if a.name in known_names | {"input_forget"})
    to.nodes.append(lstm)
    return True


def _through(to: Unrounded, node: NodeProto) -> bool:
    """Elements go somewhere else as they are: unrounded values, or quantised constants such as embeddings."""
    elem_type = to.quantized_type(node.input[0])
    if elem_type is None:
        return False
    moved = NodeProto()
    moved.CopyFrom(node)
    moved.input[0] = to.as_float(node.input[0])
    to.nodes.append(moved)
    to.move(node)
    values = node.output[:1] if node.op_type == "MaxPool" else node.output
    to.floats |= {name: elem_type for name in values if name}
    return True


def _arithmetic(to: Unrounded, node: NodeProto) -> bool:
    types = [to.floats[name] for name in node.input if to.is_float(name)]
    if not types:
        return False
    inputs = [to.as_float(name) for name in node.input]
    to.nodes.append(
        NodeProto(
            op_type=node.op_type, name=node.name, input=inputs, output=node.output, attribute=node.attribute
        )
    )
    to.floats[node.output[0]] = types[0]
    return True


QUANTIZED: dict[tuple[str, str], Rule] = {
    ("", "DynamicQuantizeLinear"): _dynamic_quantize_linear,
    ("", "QuantizeLinear"): _quantize_linear,
    ("", "DequantizeLinear"): _dequantize_linear,
    ("", "MatMulInteger"): _product_of_integers("MatMul", -1),
    ("", "ConvInteger"): _product_of_integers("Conv", 0),
    ("", "QLinearMatMul"): _qlinear_matmul,
    ("", "QLinearConv"): _qlinear_conv,
    ("com.microsoft", "QuantizeLinear"): _quantize_linear,
    ("com.microsoft", "DequantizeLinear"): _dequantize_linear,
    ("com.microsoft", "DynamicQuantizeLSTM"): _dynamic_quantize_lstm,
    ("com.microsoft", "DynamicQuantizeMatMul"): _dynamic_quantize_matmul,
    ("com.microsoft", "MatMulIntegerToFloat"): _matmul_integer_to_float,
    ("com.microsoft", "QGemm"): _qgemm,
    ("com.microsoft", "QLinearAdd"): _elementwise("Add", 2),
    ("com.microsoft", "QLinearMul"): _elementwise("Mul", 2),
    ("com.microsoft", "QLinearSigmoid"): _elementwise("Sigmoid", 1),
    ("com.microsoft", "QLinearLeakyRelu"): _elementwise("LeakyRelu", 1),
    ("com.microsoft", "QLinearSoftmax"): _elementwise("Softmax", 1),
    ("com.microsoft", "QLinearGlobalAveragePool"): _elementwise("GlobalAveragePool", 1),
    ("com.microsoft", "QLinearAveragePool"): _elementwise("AveragePool", 1),
    ("com.microsoft", "QLinearConcat"): _qlinear_concat,
}
"""Operators of quantised values by domain and name."""

HANDED_ON_RULES: dict[str, Rule] = {
    "Cast": _cast,
    **dict.fromkeys(THROUGH, _through),
    **dict.fromkeys(ARITHMETIC, _arithmetic),
}
"""Standard operators that values of integer type pass through; they are not quantised by themselves."""
