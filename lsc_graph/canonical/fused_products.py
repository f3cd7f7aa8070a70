"""Products that ONNX Runtime's optimiser has fused with what is done before or after them, written out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.rewiring import replace_node

_DOMAIN = "com.microsoft"
_PLAIN = frozenset(("Relu", "Tanh", "Sigmoid", "Softplus", "Softsign"))
_PARAMETERS = {"LeakyRelu": ("alpha",), "Elu": ("alpha",), "HardSigmoid": ("alpha", "beta")}
_OF_GEMM = ("alpha", "beta", "transA", "transB")
_FLIPS = "transA", "transB"
_MATRIX_AXES = 2


def write_out_fused_products(model: ir.Model) -> None:
    """Replace every FusedGemm by a Gemm and its activation function, and every FusedMatMul by a product of a
    scaled factor, in place; what is not known stays."""
    for node in list(model.graph.all_nodes()):
        if node.domain != _DOMAIN or node.graph is None:
            continue
        if node.op_type == "FusedGemm":
            replace_node(node, _gemm(node))
        elif node.op_type == "FusedMatMul":
            replace_node(node, _matmul(node))


def _gemm(node: ir.Node) -> list[ir.Node]:
    """A Gemm and the function of it."""
    kind = node.attributes["activation"].as_string() if "activation" in node.attributes else ""
    settings = _settings(kind, node.attributes)
    if settings is None:
        return []
    own = [value for key, value in node.attributes.items() if key in _OF_GEMM]
    product = _like(node, "Gemm", node.inputs, own, "product")
    return [product, _like(node, kind, product.outputs, settings, kind)]


def _settings(kind: str, given: Mapping[str, ir.Attr]) -> list[ir.Attr] | None:
    """The attributes of an activation function; None, if it is none that is known."""
    if kind in _PLAIN:
        return []
    names = _PARAMETERS.get(kind)
    if names is None:
        return None
    own = {name: given.get(f"activation_{name}") for name in names}
    return [ir.AttrFloat32(name, value.as_float()) for name, value in own.items() if value is not None]


def _matmul(node: ir.Node) -> list[ir.Node]:
    """The first factor scaled, and the product: exporters scale what comes in, before they multiply it."""
    left, right = node.inputs[:2]
    flips = [value for key, value in node.attributes.items() if key in _FLIPS and value.as_int()]
    others = [key for key in ("transBatchA", "transBatchB") if key in node.attributes]
    if left is None or right is None or any(node.attributes[key].as_int() for key in others):
        return []
    ranks = [None if value.shape is None else len(value.shape) for value in (left, right)]
    dtype, alpha = left.dtype or right.dtype, node.attributes.get("alpha")
    factor = 1.0 if alpha is None else alpha.as_float()
    if (flips and ranks != [_MATRIX_AXES, _MATRIX_AXES]) or (factor != 1 and dtype is None):
        return []
    found: list[ir.Node] = []
    if factor != 1 and dtype is not None:
        number = ir.tensor(np.array(factor, dtype.numpy()), name=f"{node.outputs[0].name}.alpha")
        constant = ir.Node("", "Constant", [], [ir.AttrTensor("value", number)])
        constant.outputs[0].name = f"{node.outputs[0].name}.alpha"
        found = [constant, _like(node, "Mul", [left, constant.outputs[0]], [], "scaled")]
        left = found[-1].outputs[0]
        left.shape = node.inputs[0].shape if node.inputs[0] is not None else None
    return [*found, _like(node, "Gemm" if flips else "MatMul", [left, right], flips, "product")]


def _like(
    node: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], own: Sequence[ir.Attr], name: str
) -> ir.Node:
    """A node that computes what another one does, or a part of it."""
    output = node.outputs[0]
    made = ir.Node("", op_type, inputs, own, name=f"{node.name}/{op_type}")
    made.outputs[0].name, made.outputs[0].type = f"{output.name}.{name}", output.type
    return made
