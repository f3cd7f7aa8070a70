"""Operators on integers as operators on floats: what onnxruntime's quantisation writes besides Q/DQ pairs.

QLinear operators become DequantizeLinear, the operator on floats, and QuantizeLinear: pairs that are removed
by `dequantize`. Products of integers that are cast to floats next become products of floats. What
DynamicQuantizeLinear rounds in front of them has a scale that they are multiplied by again: the product may
be taken of the float itself, with a scale of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from lsc_graph.proto_walk import Scope, model_scopes

_UNARY = {"QLinearSigmoid": "Sigmoid", "QLinearLeakyRelu": "LeakyRelu"}
_BINARY = {"QLinearMatMul": "MatMul", "QLinearAdd": "Add", "QLinearMul": "Mul"}
_PRODUCTS = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}
_DOMAINS = ("", "ai.onnx", "com.microsoft")


def expand_integer_ops(proto: onnx.ModelProto) -> tuple[str, ...]:
    """Rewrite integer operators in place, in every graph; the names of what was rewritten."""
    found: list[str] = []
    for scope in list(model_scopes(proto)):
        products = _products(scope)
        dynamic = _dynamic(scope, products)
        nodes = [
            new for node in scope.node for new in (_replacement(node, products, dynamic, found) or [node])
        ]
        del scope.node[:]
        scope.node.extend(nodes)
        _forget_types(scope, {name for node in nodes for name in node.output})
    return tuple(found)


def _replacement(
    node: NodeProto, products: set[str], dynamic: set[str], found: list[str]
) -> Sequence[NodeProto] | None:
    if node.domain not in _DOMAINS:
        return None
    if node.op_type == "DynamicQuantizeLinear" and node.output[0] in dynamic:
        return _undone(node)
    if node.op_type in _PRODUCTS and node.output[0] in products:
        new = list(_product(node, dynamic))
    elif node.op_type in _BINARY or node.op_type in _UNARY:
        new = list(_between_pairs(node))
    elif node.op_type == "QLinearConcat":
        new = list(_concatenated(node))
    else:
        return None
    found.append(node.name or node.output[0])
    return new


def _products(scope: Scope) -> set[str]:
    """Outputs of the integer products that are cast to floats, and read by nothing else."""
    casts = {node.input[0] for node in scope.node if node.op_type == "Cast"}
    others = {name for node in scope.node if node.op_type != "Cast" for name in node.input} | _shown(scope)
    made = {node.output[0] for node in scope.node if node.op_type in _PRODUCTS}
    return (made & casts) - others


def _dynamic(scope: Scope, products: set[str]) -> set[str]:
    """First outputs of the DynamicQuantizeLinear nodes whose integers go into such products alone."""
    read = {name for node in scope.node if node.output[0] not in products for name in node.input}
    read |= _shown(scope)
    made = {node.output[0]: node.output[2] for node in scope.node if node.op_type == "DynamicQuantizeLinear"}
    wrong = {value for value, zero in made.items() if {value, zero} & read}
    for node in scope.node:
        if node.output[0] in products:
            wrong |= {value for value, zero in _factors(node) if made.get(value, zero) != zero}
            zeros = {zero: value for value, zero in made.items()}
            wrong |= {zeros[zero] for value, zero in _factors(node) if zeros.get(zero, value) != value}
    return set(made) - wrong


def _shown(scope: Scope) -> set[str]:
    """Names that inner graphs read, or that the graph gives."""
    read = {name for node in scope.node for graph in _graphs(node) for name in _names(graph)}
    outputs = [value.name for value in scope.output] if isinstance(scope, onnx.GraphProto) else scope.output
    return read | set(outputs)


def _factors(node: NodeProto) -> list[tuple[str, str]]:
    """Both factors of an integer product with their zero points."""
    inputs = [*node.input, "", ""][:4]
    return [(inputs[0], inputs[2]), (inputs[1], inputs[3])]


def _undone(node: NodeProto) -> list[NodeProto]:
    """The float itself with a scale of one."""
    one = numpy_helper.from_array(np.array(1, dtype=np.float32), node.output[1])
    return [
        helper.make_node("Identity", [node.input[0]], [node.output[0]], name=node.name),
        helper.make_node("Constant", [], [node.output[1]], name=node.output[1], value=one),
    ]


def _product(node: NodeProto, dynamic: set[str]) -> Iterator[NodeProto]:
    """A product of floats; integers of the file count as what is left without their zero point."""
    factors = []
    for number, (value, zero) in enumerate(_factors(node)):
        if value in dynamic:
            factors.append(value)
            continue
        factors.append(f"{node.output[0]}.factor_{number}")
        yield _constant(f"{factors[-1]}.scale", 1.0)
        yield _dequantize([value, f"{factors[-1]}.scale", zero], factors[-1])
    yield _float_op(node, _PRODUCTS[node.op_type], factors, node.output[0])


def _between_pairs(node: NodeProto) -> Iterator[NodeProto]:
    """QLinear operators with one or two inputs, each with scale and zero point, and those of the output."""
    count = 1 if node.op_type in _UNARY else 2
    op_type = _UNARY.get(node.op_type) or _BINARY[node.op_type]
    yield from _with_pairs(node, op_type, list(node.input[: 3 * count]), list(node.input[3 * count :]))


def _concatenated(node: NodeProto) -> Iterator[NodeProto]:
    yield from _with_pairs(node, "Concat", list(node.input[2:]), list(node.input[:2]))


def _with_pairs(
    node: NodeProto, op_type: str, operands: Sequence[str], output: Sequence[str]
) -> Iterator[NodeProto]:
    floats = []
    for number in range(0, len(operands), 3):
        floats.append(f"{node.output[0]}.operand_{number // 3}")
        yield _dequantize(list(operands[number : number + 3]), floats[-1])
    result = f"{node.output[0]}.float"
    yield _float_op(node, op_type, floats, result)
    inputs = [name for name in (result, *output) if name]
    yield helper.make_node("QuantizeLinear", inputs, [node.output[0]], name=f"{result}.quantized")


def _dequantize(inputs: list[str], output: str) -> NodeProto:
    names = inputs if inputs[-1] else inputs[:-1]
    return helper.make_node("DequantizeLinear", names, [output], name=output, axis=-1)


def _constant(name: str, value: float) -> NodeProto:
    tensor = numpy_helper.from_array(np.array(value, dtype=np.float32), name)
    return helper.make_node("Constant", [], [name], name=name, value=tensor)


def _float_op(node: NodeProto, op_type: str, inputs: list[str], output: str) -> NodeProto:
    new = helper.make_node(op_type, inputs, [output], name=node.name)
    new.attribute.extend(node.attribute)
    return new


def _forget_types(scope: Scope, names: set[str]) -> None:
    """What was noted of values that may be floats now."""
    kept = [value for value in scope.value_info if value.name not in names]
    del scope.value_info[:]
    scope.value_info.extend(kept)


def _graphs(node: NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from node.input
        for inner in _graphs(node):
            yield from _names(inner)
    yield from (value.name for value in graph.output)
