"""Recurrences of integer operators, as ONNX Runtime's quantisation writes them, are found and audited."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime.quantization as quantization
import pytest
from onnx import TensorProto, helper, numpy_helper
from unrolled_models import Unroller, layer, stacked, tanh_cell

from lsc_graph.audit_model import audit
from lsc_graph.errors import AnalysisError
from lsc_graph.pretraining.pretrain_model import pretrain
from lsc_graph.quantized.dequantize import dequantized, is_quantized
from lsc_graph.running.reference import Reference

X = np.random.default_rng(0).standard_normal((6, 1, 8)).astype(np.float32)


class Reader(quantization.CalibrationDataReader):
    def __init__(self) -> None:
        self.feeds = iter([{"x": scale * X} for scale in (-1.3, 0.5, 1.3)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def two_layers() -> onnx.ModelProto:
    net = Unroller()
    sequence = net.input("x", 6, 1, 8)
    for _ in range(2):
        states = layer(net, tanh_cell(net, 8, 8), sequence, net.constant(np.zeros((1, 8))), range(6))
        sequence = stacked(net, states)
    net.output(sequence)
    return net.model()


def dynamic(folder: Path, *, per_channel: bool = False) -> onnx.ModelProto:
    kind = quantization.QuantType.QUInt8 if per_channel else quantization.QuantType.QInt8
    quantization.quantize_dynamic(
        folder / "float.onnx", folder / "int8.onnx", per_channel=per_channel, weight_type=kind
    )
    return onnx.load(folder / "int8.onnx")


def static(folder: Path) -> onnx.ModelProto:
    quantization.quantize_static(
        folder / "float.onnx",
        folder / "int8.onnx",
        Reader(),
        quant_format=quantization.QuantFormat.QOperator,
        op_types_to_quantize=["MatMul", "Add", "Mul"],
    )
    return onnx.load(folder / "int8.onnx")


CASES = {
    "dynamic": (dynamic, "MatMulInteger"),
    "dynamic, by channel": (lambda folder: dynamic(folder, per_channel=True), "MatMulInteger"),
    "static": (static, "QLinearMatMul"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_layers_of_a_quantised_recurrence_have_nearly_the_radii_of_the_float_one(
    name: str, tmp_path: Path
) -> None:
    proto = two_layers()
    onnx.save(proto, tmp_path / "float.onnx")
    make, operator = CASES[name]
    int8 = make(tmp_path)
    assert operator in {node.op_type for node in int8.graph.node}
    floats, names = dequantized(int8)
    assert names
    assert operator not in {node.op_type for node in floats.graph.node}
    (expected, *_), (actual, *_) = (Reference(m).run({"x": X}).values() for m in (int8, floats))
    np.testing.assert_allclose(actual, expected, atol=0.05)
    before, after = (audit(m, data={"x": X}, num_samples=1) for m in (proto, int8))
    assert any("quantised" in warning for warning in after.warnings)
    assert len(after.layers) == len(before.layers)
    for one, two in zip(before.layers, after.layers, strict=True):
        assert one.time_radius is not None
        assert two.time_radius is not None
        assert one.time_radius.mean == pytest.approx(two.time_radius.mean, abs=0.03)
    with pytest.raises(AnalysisError, match="quantised model cannot be pre-trained") as raised:
        pretrain(int8)
    assert "pre-train the float model" in str(raised.value)


def test_integers_that_something_else_reads_stay() -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["product"]),
        helper.make_node("Cast", ["product"], ["y"], to=TensorProto.FLOAT),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["integers"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "main",
        [info("x", TensorProto.FLOAT, [2, 3])],
        [info("y", TensorProto.FLOAT, [2, 2]), info("integers", TensorProto.INT32, [2, 2])],
        [numpy_helper.from_array(np.array([[1, 2], [3, 4], [5, 250]], np.uint8), "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert is_quantized(proto)
    x = {"x": np.array([[1, -2, 3], [0.5, 0, -1]], np.float32)}
    before = Reference(proto).run(x)
    floats, _ = dequantized(proto)
    assert [node.op_type for node in floats.graph.node].count("MatMulInteger") == 2
    onnx.checker.check_model(floats, full_check=True)
    for name, value in Reference(floats).run(x).items():
        np.testing.assert_array_equal(value, before[name])
