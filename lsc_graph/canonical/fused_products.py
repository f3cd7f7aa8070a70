"""Products that ONNX Runtime's optimiser has fused with what is done to them, written out."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from lsc_graph.canonical.rewiring import put_in_place

_DOMAIN = "com.microsoft"
_PLAIN = frozenset(("Relu", "Tanh", "Sigmoid", "Softplus", "Softsign"))
_PARAMETERS = {"LeakyRelu": ("alpha",), "Elu": ("alpha",), "HardSigmoid": ("alpha", "beta")}
_OF_GEMM = ("alpha", "beta", "transA", "transB")


def write_out_fused_products(model: ir.Model) -> None:
    """Replace every FusedGemm by a Gemm and its activation function, in place; unknown ones stay."""
    for node in list(model.graph.all_nodes()):
        if node.domain != _DOMAIN or node.op_type != "FusedGemm" or node.graph is None:
            continue
        kind = node.attributes["activation"].as_string() if "activation" in node.attributes else ""
        settings = _settings(kind, node.attributes)
        if settings is None:
            continue
        own = [value for key, value in node.attributes.items() if key in _OF_GEMM]
        product = ir.Node("", "Gemm", node.inputs, own, name=f"{node.name}/Gemm")
        output = node.outputs[0]
        product.outputs[0].name, product.outputs[0].type = f"{output.name}.product", output.type
        whole = ir.Node("", kind, product.outputs, settings, name=f"{node.name}/{kind}")
        whole.outputs[0].name, whole.outputs[0].type = f"{output.name}.{kind}", output.type
        node.graph.insert_before(node, [product, whole])
        put_in_place(output, whole.outputs[0])
        node.graph.remove(node, safe=True)


def _settings(kind: str, given: Mapping[str, ir.Attr]) -> list[ir.Attr] | None:
    """The attributes of an activation function; None, if it is none that is known."""
    if kind in _PLAIN:
        return []
    names = _PARAMETERS.get(kind)
    if names is None:
        return None
    own = {name: given.get(f"activation_{name}") for name in names}
    return [ir.AttrFloat32(name, value.as_float()) for name, value in own.items() if value is not None]
