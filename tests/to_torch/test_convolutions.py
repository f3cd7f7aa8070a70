"""Convolutions written out as products compute what ONNX Runtime's convolutions compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from lsc_graph.canonical.inference import infer_shapes
from lsc_graph.canonical.precision import in_double_precision
from lsc_graph.model_file.proto_walk import model_scopes
from lsc_graph.running.reference import Reference
from lsc_graph.to_torch.convolutions import write_out_convolutions

CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "line": ((2, 3, 9), (4, 3, 3), {}),
    "line of one tap": ((1, 3, 5), (2, 3, 1), {}),
    "uneven padding": ((1, 2, 7), (3, 2, 4), {"pads": [3, 0]}),
    "more padding than data": ((1, 1, 2), (1, 1, 3), {"pads": [4, 5]}),
    "strides and dilations": ((2, 2, 11, 8), (3, 2, 3, 2), {"strides": [3, 2], "dilations": [2, 3]}),
    "padded image": ((1, 2, 6, 5), (2, 2, 3, 3), {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    "groups": ((2, 6, 5), (4, 3, 2), {"group": 2}),
    "depthwise": ((1, 4, 5, 4), (8, 1, 2, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
    "volume": ((1, 2, 4, 5, 3), (3, 2, 2, 3, 2), {"strides": [1, 2, 1], "pads": [0, 1, 1, 1, 0, 0]}),
    "same, odd one at the end": ((1, 2, 7, 6), (2, 2, 4, 2), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    "same, odd one in front": ((1, 2, 7, 6), (2, 2, 4, 2), {"auto_pad": "SAME_LOWER", "strides": [2, 3]}),
    "valid": ((1, 2, 7), (2, 2, 4), {"auto_pad": "VALID"}),
}


def convolution(
    shape: tuple[int, ...], weights: tuple[int, ...], attributes: dict[str, Any], *, has_bias: bool
) -> onnx.ModelProto:
    shapes = {"x": shape, "w": weights} | ({"b": weights[:1]} if has_bias else {})
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, own) for name, own in shapes.items()]
    node = helper.make_node("Conv", list(shapes), ["y"], **attributes)
    graph = helper.make_graph(
        [node], "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def written_out(proto: onnx.ModelProto) -> onnx.ModelProto:
    model = ir.from_proto(proto)
    infer_shapes(model)
    write_out_convolutions(model)
    return ir.to_proto(model)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_products_are_the_convolution_in_both_precisions(name: str, *, has_bias: bool) -> None:
    shape, weights, attributes = CASES[name]
    proto = convolution(shape, weights, attributes, has_bias=has_bias)
    random = np.random.default_rng(0)
    given = {"x": shape, "w": weights} | ({"b": weights[:1]} if has_bias else {})
    values = {key: random.standard_normal(own).astype(np.float32) for key, own in given.items()}
    expected = Reference(proto).run(values)["y"]

    written = written_out(proto)
    assert "Conv" not in {node.op_type for node in written.graph.node}
    np.testing.assert_allclose(Reference(written).run(values)["y"], expected, rtol=1e-4, atol=1e-5)
    exact = Reference(in_double_precision(written)).run({k: v.astype(np.float64) for k, v in values.items()})
    assert exact["y"].dtype == np.float64
    np.testing.assert_allclose(exact["y"], expected, rtol=1e-4, atol=1e-5)


def test_what_lies_outside_is_no_product_with_an_infinite_element() -> None:
    proto = convolution((1, 1, 3), (1, 1, 2), {"pads": [1, 0]}, has_bias=False)
    x, w = np.array([[[np.inf, 1, 2]]], np.float32), np.array([[[1, 0.5]]], np.float32)
    found = Reference(written_out(proto)).run({"x": x, "w": w})["y"]
    np.testing.assert_array_equal(found, [[[np.inf, np.inf, 2]]])


def test_names_that_are_taken_are_not_given_again() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 1, 4] x, float[1, 1, 2] w, bool go) => (float[1, 1, 4] y)
    {
        c_product_read = Tanh(x)
        c = Conv <pads = [1, 0]> (c_product_read, w)
        y = If (go) <
            then_branch = a () => (float[1, 1, 4] c_product_rows) {
                c_product_rows = Conv <pads = [0, 1]> (c, w)
            },
            else_branch = b () => (float[1, 1, 4] d) {
                d_product_whole = Neg(c)
                d = Conv <pads = [1, 0]> (d_product_whole, w)
            }
        >
    }"""
    proto = onnx.parser.parse_model(text)
    for scope in model_scopes(proto):
        for node in scope.node:
            node.input[:], node.output[:] = ([dotted(v) for v in own] for own in (node.input, node.output))
        for value in scope.output:
            value.name = dotted(value.name)
    written = written_out(proto)
    random, shapes = np.random.default_rng(0), {"x": (1, 1, 4), "w": (1, 1, 2)}
    values = {key: random.standard_normal(own).astype(np.float32) for key, own in shapes.items()}
    for go in (True, False):
        given = values | {"go": np.array(go)}
        expected, found = (Reference(own).run(given)["y"] for own in (proto, written))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def dotted(name: str) -> str:
    """The parser takes no dots in names."""
    return name.replace("_", ".")


def test_convolutions_of_unknown_sizes_stay() -> None:
    proto = convolution((1, 2, 7), (2, 2, 4), {}, has_bias=False)
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "length"
    assert [node.op_type for node in written_out(proto).graph.node] == ["Conv"]


def test_patches_that_are_too_large_are_not_made() -> None:
    proto = convolution((1, 512, 64, 64), (8, 512, 5, 5), {}, has_bias=False)
    assert [node.op_type for node in written_out(proto).graph.node] == ["Conv"]
