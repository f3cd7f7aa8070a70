"""Products that ONNX Runtime has fused with activation functions are products and functions."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from lsc_graph.canonical.normalize import normalize
from lsc_graph.running.reference import Reference


def fused(activation: str, **settings: float) -> onnx.ModelProto:
    node = helper.make_node(
        "FusedGemm",
        ["x", "w", "c"],
        ["y"],
        domain="com.microsoft",
        activation=activation,
        transB=1,
        alpha=0.5,
        beta=2.0,
        **settings,
    )
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (3, 3)) for n in ("x", "w", "c", "y")]
    graph = helper.make_graph([node], "main", values[:3], values[3:])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize(
    ("activation", "settings"),
    [("Tanh", {}), ("Relu", {}), ("LeakyRelu", {"activation_alpha": 0.3})],
    ids=["tanh", "relu", "leaky"],
)
def test_it_computes_the_same_by_operators_of_onnx(activation: str, settings: dict[str, float]) -> None:
    proto, shapes = fused(activation, **settings), dict.fromkeys(("x", "w", "c"), (3, 3))
    model = normalize(proto, shapes, {})
    assert [node.op_type for node in model.graph] == ["Gemm", activation]
    feed = {n: np.random.default_rng(k).standard_normal((3, 3), np.float32) for k, n in enumerate(shapes)}
    expected = Reference(proto).run(feed)["y"]
    np.testing.assert_allclose(Reference(ir.to_proto(model)).run(feed)["y"], expected, rtol=1e-6)


def test_functions_that_are_not_known_stay_inside() -> None:
    model = normalize(fused("Unheard"), dict.fromkeys(("x", "w", "c"), (3, 3)), {})
    assert [node.op_type for node in model.graph] == ["FusedGemm"]


def scaled_product(shapes: tuple[tuple[int, ...], tuple[int, ...]], **settings: float) -> onnx.ModelProto:
    node = helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft", **settings)
    values = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip("xw", shapes, strict=True)
    ]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "main", values, [result])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


MATRICES, STACKS = ((3, 3), (3, 3)), ((2, 4, 3), (2, 3, 5))


@pytest.mark.parametrize(
    ("shapes", "settings", "written"),
    [
        (MATRICES, {"alpha": 0.5}, ["Mul", "MatMul"]),
        (MATRICES, {"transB": 1}, ["Gemm"]),
        (MATRICES, {"transA": 1, "transB": 1, "alpha": -2.0}, ["Mul", "Gemm"]),
        (MATRICES, {"transA": 0, "alpha": 1.0}, ["MatMul"]),
        (STACKS, {"alpha": 3.0}, ["Mul", "MatMul"]),
        (((2, 3, 4), (2, 3, 5)), {"transA": 1}, ["FusedMatMul"]),
    ],
)
def test_a_fused_scale_stands_before_the_product(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], settings: dict[str, float], written: list[str]
) -> None:
    proto = scaled_product(shapes, **settings)
    model = normalize(proto, dict(zip("xw", shapes, strict=True)), {})
    assert [node.op_type for node in model.graph if node.op_type != "Constant"] == written
    feed = {
        n: np.random.default_rng(k).standard_normal(own, np.float32)
        for k, (n, own) in enumerate(zip("xw", shapes, strict=True))
    }
    expected = Reference(proto).run(feed)["y"]
    np.testing.assert_allclose(Reference(ir.to_proto(model)).run(feed)["y"], expected, rtol=1e-5, atol=1e-6)
