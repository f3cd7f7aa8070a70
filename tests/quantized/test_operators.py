"""Models that ONNX Runtime's own tools have quantised compute nearly the same as floats, without integers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime.quantization as quantization
import pytest
from onnx import TensorProto, helper, numpy_helper

from lsc_graph.quantized.dequantize import dequantized, is_quantized
from lsc_graph.running.reference import Array, Reference

GENERATOR = np.random.default_rng(0)
FEEDS = [
    {"x": GENERATOR.standard_normal((2, 3, 8, 8)).astype(np.float32), "k": np.array([[1], [4]], np.int64)}
    for _ in range(8)
]


class Reader(quantization.CalibrationDataReader):
    def __init__(self) -> None:
        self.feeds = iter(FEEDS)

    def get_next(self) -> dict[str, Array] | None:
        return next(self.feeds, None)


def network() -> onnx.ModelProto:
    """A convolution, a Relu, a branch that is added, pooling, an embedding, matrix products, a sigmoid."""
    generator = np.random.default_rng(1)
    shapes = {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (6, 6, 3, 3), "b2": (6,), "table": (9, 6), "w3": (6, 5)}
    weights = {
        name: (0.3 * generator.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"], "relu1"),
        node("Conv", ["r1", "w2", "b2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        node("Add", ["c2", "r1"], ["sum"], "add"),
        node("GlobalAveragePool", ["sum"], ["pooled"], "pool"),
        node("Reshape", ["pooled", "shape"], ["flat"], "reshape"),
        node("Gather", ["table", "k"], ["rows"], "gather"),
        node("Reshape", ["rows", "shape"], ["row"], "reshape2"),
        node("Add", ["flat", "row"], ["both"], "add2"),
        node("MatMul", ["both", "w3"], ["z"], "matmul"),
        node("Sigmoid", ["z"], ["y"], "sigmoid"),
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    tensors.append(numpy_helper.from_array(np.array([2, 6], np.int64), "shape"))
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 8, 8]),
        helper.make_tensor_value_info("k", TensorProto.INT64, [2, 1]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 5])]
    graph = helper.make_graph(nodes, "network", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def dynamic(source: Path, target: Path) -> None:
    quantization.quantize_dynamic(source, target)


def statically(form: quantization.QuantFormat, **options: bool) -> Callable[[Path, Path], None]:
    def run(source: Path, target: Path) -> None:
        quantization.quantize_static(source, target, Reader(), quant_format=form, **options)

    return run


WAYS = {
    "dynamic": dynamic,
    "pairs": statically(quantization.QuantFormat.QDQ),
    "pairs_per_channel": statically(quantization.QuantFormat.QDQ, per_channel=True),
    "operators": statically(quantization.QuantFormat.QOperator),
    "operators_per_channel": statically(quantization.QuantFormat.QOperator, per_channel=True),
}


@pytest.fixture(params=WAYS)
def quantized(request: pytest.FixtureRequest, tmp_path: Path) -> onnx.ModelProto:
    onnx.save(network(), tmp_path / "float.onnx")
    WAYS[request.param](tmp_path / "float.onnx", tmp_path / "int8.onnx")
    return onnx.load(tmp_path / "int8.onnx")


def worst(one: onnx.ModelProto, other: onnx.ModelProto) -> float:
    pairs = [(Reference(one).run(feed)["y"], Reference(other).run(feed)["y"]) for feed in FEEDS]
    return max(float(np.abs(a - b).max()) for a, b in pairs)


def test_nothing_quantised_is_left_and_the_model_computes_nearly_the_same(quantized: onnx.ModelProto) -> None:
    assert is_quantized(quantized)
    floats, names = dequantized(quantized)
    onnx.checker.check_model(floats, full_check=True)
    assert not is_quantized(floats)
    assert names
    assert 0 < worst(quantized, floats) < 0.02
    assert worst(network(), floats) < 0.02


def test_a_relu_that_was_left_to_the_end_of_the_integers_range_is_kept(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "float.onnx")
    WAYS["operators"](tmp_path / "float.onnx", tmp_path / "int8.onnx")
    int8 = onnx.load(tmp_path / "int8.onnx")
    assert not any(node.op_type == "Relu" for node in int8.graph.node)
    floats, _ = dequantized(int8)
    floats.graph.output.append(helper.make_empty_tensor_value_info("c1_quantized"))
    steps = Reference(floats).run(FEEDS[0], ["c1_quantized"])["c1_quantized"]
    assert np.mean(steps == steps.min()) > 0.3  # the silent units of a Relu
    assert len(np.unique(steps)) > 300  # and nothing else is rounded


def integer_product(reader: str) -> onnx.ModelProto:
    """x is quantised as it comes, multiplied by integers, and the product read by one operator more."""
    weight = np.array([[1, -2], [3, 4]], np.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["q", "w", "zero"], ["product"]),
        helper.make_node(*reader.split(), ["product"], ["y"])
        if reader != "Cast"
        else helper.make_node("Cast", ["product"], ["f"], to=TensorProto.FLOAT),
    ]
    if reader == "Cast":
        nodes.append(helper.make_node("Mul", ["f", "scale"], ["y"]))
    kind = TensorProto.FLOAT if reader == "Cast" else TensorProto.INT32
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", kind, [1, 2])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_a_product_of_integers_that_becomes_a_float_is_exact() -> None:
    floats, _ = dequantized(integer_product("Cast"))
    x = np.array([[0.31, -1.7]], np.float32)
    (y,) = Reference(floats).run({"x": x}).values()
    np.testing.assert_allclose(y, x @ np.array([[1, -2], [3, 4]], np.float32), rtol=1e-6)


def test_integers_that_stay_integers_are_left_as_they_are() -> None:
    """Abs has no rule, and the product leaves the model as an integer: both need true integers."""
    int8 = integer_product("Abs")
    floats, _ = dequantized(int8)
    x = {"x": np.array([[0.31, -1.7]], np.float32)}
    before, after = (Reference(model).run(x)["y"] for model in (int8, floats))
    assert before.dtype == after.dtype
    np.testing.assert_array_equal(before, after)


def test_unrounded_values_are_rounded_before_an_operator_without_a_rule() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("Reshape", ["q", "shape"], ["flat"]),
        helper.make_node("BitShift", ["flat", "one"], ["shifted"], direction="RIGHT"),
        helper.make_node("DequantizeLinear", ["shifted", "s", "z"], ["y"]),
    ]
    tensors = {
        "s": np.float32(0.1),
        "z": np.uint8(100),
        "shape": np.array([4], np.int64),
        "one": np.array([1], np.uint8),
    }
    graph = helper.make_graph(
        nodes,
        "shift",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    int8 = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    x = {"x": np.array([[0.31, -1.7], [2.22, 0.0]], np.float32)}
    before, after = (Reference(model).run(x)["y"] for model in (int8, dequantized(int8)[0]))
    np.testing.assert_array_equal(before, after)
