"""Operators that onnx2fx converts to something else, rewritten as ones that it converts rightly."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.rewiring import put_in_place
from lsc_graph.canonical.shapes import static_shape
from lsc_graph.to_torch.surrogates import DOMAIN

ONLY = "Only"
"""Our own operator: the first of a tuple."""


def rewrite(graph: ir.Graph) -> None:
    """Rewrite what can be said in other operators, in place; inner graphs included."""
    for node in list(graph.all_nodes()):
        rewriter = REWRITERS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if rewriter is not None:
            rewriter(node)


def _pad(node: ir.Node) -> None:
    """Pads of some axes become pads of all."""
    pads, axes = (_constant(node, index) for index in (1, 3))
    shape = static_shape(node.inputs[0])
    if pads is None or axes is None or shape is None:
        return
    both = np.zeros((2, len(shape)), dtype=np.int64)
    both[:, axes.reshape(-1)] = pads.reshape(2, -1)
    node.replace_input_with(1, _put_before(node, both.reshape(-1)))
    node.resize_inputs(3)


def _swish(node: ir.Node) -> None:
    """x sigmoid(alpha x), of which onnx2fx knows alpha 1."""
    alpha, x = node.attributes.get("alpha"), node.inputs[0]
    if alpha is None or alpha.as_float() == 1.0 or x is None or x.dtype is None:
        return
    factor = _put_before(node, np.array(alpha.as_float(), dtype=x.dtype.numpy()))
    scaled = _node(node, "Mul", [x, factor])
    gate = _node(node, "Sigmoid", [scaled])
    _replace(node, _node(node, "Mul", [x, gate]))


def _cumulative_sum(node: ir.Node) -> None:
    """torch widens integers; ONNX does not."""
    output = node.outputs[0]
    narrow = output.dtype
    if narrow is None or narrow not in (ir.DataType.INT32, ir.DataType.UINT32):
        return
    wide = _node(node, "CumSum", list(node.inputs), list(node.attributes.values()))
    _replace(node, _node(node, "Cast", [wide], [ir.AttrInt64("to", int(narrow))]))


def _split(node: ir.Node) -> None:
    """A split into one part is a copy."""
    if len(node.outputs) == 1:
        _replace(node, _node(node, "Identity", [node.inputs[0]]))


def _single_result(node: ir.Node) -> None:
    """onnx2fx hands on a tuple where a node with inner graphs has a single output: ONLY takes it out."""
    graph, output = node.graph, node.outputs[0]
    if len(node.outputs) > 1 or graph is None:
        return
    only = ir.Node(DOMAIN, ONLY, [output])
    only.outputs[0].type, only.outputs[0].shape = output.type, output.shape
    graph.insert_after(node, only)
    ir.convenience.replace_all_uses_with(output, only.outputs[0], replace_graph_outputs=True)
    only.replace_input_with(0, output)
    only.outputs[0].name, output.name = output.name, f"{output.name}.tuple"


def _batch_norm(node: ir.Node) -> None:
    """Statistics that a step reads from outside: torch's operator wants them to be its own."""
    x, *given = node.inputs[:5]
    shape = static_shape(x)
    is_own = all(value is not None and value.is_initializer() for value in given[2:])
    if is_own or shape is None or x is None or x.dtype is None or node.attributes.get_int("training_mode"):
        return
    along = _put_before(node, np.array([1, -1, *(1 for _ in shape[2:])][: len(shape)], dtype=np.int64))
    scale, bias, mean, variance = (_node(node, "Reshape", [value, along]) for value in given)
    epsilon = np.array(node.attributes.get_float("epsilon", 1e-5), dtype=x.dtype.numpy())
    deviation = _node(node, "Sqrt", [_node(node, "Add", [variance, _put_before(node, epsilon)])])
    unit = _node(node, "Div", [_node(node, "Sub", [x, mean]), deviation])
    _replace(node, _node(node, "Add", [_node(node, "Mul", [unit, scale]), bias]))


REWRITERS = {
    "Pad": _pad,
    "Swish": _swish,
    "CumSum": _cumulative_sum,
    "BatchNormalization": _batch_norm,
    "Split": _split,
    "If": _single_result,
    "Loop": _single_result,
    "Scan": _single_result,
}


def _constant(node: ir.Node, index: int) -> np.ndarray | None:
    value = node.inputs[index] if len(node.inputs) > index else None
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _put_before(node: ir.Node, array: np.ndarray) -> ir.Value:
    return _node(node, "Constant", [], [ir.AttrTensor("value", ir.tensor(array))])


def _node(
    before: ir.Node, op_type: str, inputs: list[ir.Value | None], attributes: list[ir.Attr] | None = None
) -> ir.Value:
    """The output of a new node in front of another."""
    new = ir.Node("", op_type, inputs, attributes or [])
    assert before.graph is not None
    before.graph.insert_before(before, new)
    new.outputs[0].type = before.outputs[0].type
    return new.outputs[0]


def _replace(node: ir.Node, value: ir.Value) -> None:
    value.shape = node.outputs[0].shape
    put_in_place(node.outputs[0], value)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
