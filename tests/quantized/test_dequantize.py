"""Quantised models are audited on the floats that their weights stand for, and the report says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime.quantization as quantization
import pytest
from lsc_graph.models.gru import gru
from lsc_graph.models.lstm import lstm
from onnx import TensorProto, helper, numpy_helper
from unrolled_models import Unroller, at, stacked

from lsc_graph.audit_model import audit
from lsc_graph.quantized.dequantize import dequantized, is_quantized
from lsc_graph.results import Analysis, Form
from lsc_graph.running.reference import Reference

X = np.random.default_rng(0).standard_normal((6, 1, 8)).astype(np.float32)
FEED = {"x": X} | {f"h{i}_zeros": 0.5 * np.tanh(X[i, :, :1] * X.reshape(1, -1)[:, :16]) for i in range(2)}


def dynamically_quantized(
    tmp_path: Path, *, per_channel: bool = False
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    proto = lstm(0, initial_state="omitted").model
    onnx.save(proto, tmp_path / "float.onnx")
    quantization.quantize_dynamic(
        tmp_path / "float.onnx",
        tmp_path / "int8.onnx",
        op_types_to_quantize=["LSTM"],
        per_channel=per_channel,
    )
    return proto, onnx.load(tmp_path / "int8.onnx")


class Reader(quantization.CalibrationDataReader):
    def __init__(self, feeds: list[dict[str, np.ndarray]]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def with_given_first_states(proto: onnx.ModelProto) -> onnx.ModelProto:
    """First states are inputs in place of zeros, so that the first step is like the others."""
    zeros = [node for node in proto.graph.node if node.op_type == "ConstantOfShape"]
    for node in zeros:
        proto.graph.node.remove(node)
        proto.graph.input.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, [1, 16]))
    return proto


def quantized_by_pairs(tmp_path: Path, *, is_given: bool) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    proto = gru(0, form=Form.UNROLLED, num_steps=6).model
    proto = with_given_first_states(proto) if is_given else proto
    names = [value.name for value in proto.graph.input]
    onnx.save(proto, tmp_path / "float.onnx")
    quantization.quantize_static(
        tmp_path / "float.onnx",
        tmp_path / "int8.onnx",
        Reader([{name: scale * FEED[name] for name in names} for scale in (-1.2, 0.5, 1.2)]),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=["Gemm", "MatMul"],
    )
    return proto, onnx.load(tmp_path / "int8.onnx")


def assert_weights_are_in(proto: onnx.ModelProto, analysis: Analysis) -> None:
    """Weights are called by their names in the file, not by those of the floats that they stand for."""
    weights = [name for own in analysis.recurrences for name in own.weights]
    assert weights
    assert set(weights) <= {tensor.name for tensor in proto.graph.initializer}


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_quantised_lstm_becomes_an_lstm_with_nearly_the_same_weights(
    tmp_path: Path, per_channel: bool
) -> None:
    proto, int8 = dynamically_quantized(tmp_path, per_channel=per_channel)
    assert any(node.op_type == "DynamicQuantizeLSTM" for node in int8.graph.node)
    floats, names = dequantized(int8)
    assert is_quantized(int8)
    assert not is_quantized(floats)
    assert names
    originals = [numpy_helper.to_array(tensor) for tensor in proto.graph.initializer]
    weights = [numpy_helper.to_array(n.attribute[0].t) for n in floats.graph.node if n.op_type == "Constant"]
    for weight in weights:
        if weight.ndim == 3:
            alike = [value for value in originals if value.shape == weight.shape]
            assert min(np.abs(weight - value).max() for value in alike) < 0.01
    (before, *_), (after, *_) = (Reference(m).run({"x": X}).values() for m in (proto, floats))
    np.testing.assert_allclose(after, before, atol=0.02)


def test_a_quantised_lstm_has_nearly_the_radii_of_the_float_one(tmp_path: Path) -> None:
    proto, int8 = dynamically_quantized(tmp_path)
    before, after = (audit(m, data={"x": X}, num_samples=1) for m in (proto, int8))
    assert any("quantised" in warning for warning in after.warnings)
    for one, two in zip(before.layers, after.layers, strict=True):
        assert one.time_radius is not None
        assert two.time_radius is not None
        assert one.time_radius.mean == pytest.approx(two.time_radius.mean, abs=0.01)
    assert_weights_are_in(int8, after)


@pytest.mark.parametrize("is_given", [True, False])
def test_quantised_and_dequantised_steps_are_steps(tmp_path: Path, is_given: bool) -> None:
    """From given states, and from zeros that were folded."""
    proto, int8 = quantized_by_pairs(tmp_path, is_given=is_given)
    assert any(node.op_type == "DequantizeLinear" for node in int8.graph.node)
    names = {value.name for value in proto.graph.input}
    feed = {name: value for name, value in FEED.items() if name in names}
    before, after = (audit(m, data=feed, num_samples=1) for m in (proto, int8))
    assert [own.form for own in after.recurrences] == [own.form for own in before.recurrences]
    assert [layer.state_size for layer in after.layers] == [16, 16]
    assert after.grid == before.grid
    assert_weights_are_in(int8, after)
    assert any("quantised" in warning for warning in after.warnings)
    for one, two in zip(before.layers, after.layers, strict=True):
        assert one.time_radius is not None
        assert two.time_radius is not None
        assert one.time_radius.mean == pytest.approx(two.time_radius.mean, abs=0.02)


def rectified(num_steps: int = 6, size: int = 4) -> onnx.ModelProto:
    """h' = relu(h U + x W): its smallest value, zero, is where the integers end that it is quantised to."""
    net = Unroller()
    x, u = net.op("MatMul", net.input("x", num_steps, 1, 3), net.weight(3, size)), net.weight(size, size)
    rows = [net.input("h", 1, size)]
    for time in range(num_steps):
        rows.append(net.op("Relu", net.op("Add", net.op("MatMul", rows[-1], u), at(net, x, time))))
    net.output(stacked(net, rows[1:]))
    return net.model()


def test_values_where_the_integers_end_have_the_derivatives_of_the_float_model(tmp_path: Path) -> None:
    """Maxima halve derivatives where both operands are equal, as for all units that are at rest."""
    proto, draw = rectified(), np.random.default_rng(1).standard_normal
    feed = {"x": draw((6, 1, 3)).astype(np.float32), "h": np.abs(draw((1, 4))).astype(np.float32)}
    onnx.save(proto, tmp_path / "float.onnx")
    quantization.quantize_static(
        tmp_path / "float.onnx",
        tmp_path / "int8.onnx",
        Reader([{name: scale * value for name, value in feed.items()} for scale in (0.5, 1, 1.5)]),
        op_types_to_quantize=["MatMul"],
    )
    before, after = (audit(m, data=feed, num_samples=1) for m in (proto, onnx.load(tmp_path / "int8.onnx")))
    (one,), (two,) = before.layers, after.layers
    assert one.time_gain is not None
    assert two.time_gain is not None
    assert two.time_gain.mean == pytest.approx(one.time_gain.mean, rel=0.02)


def test_a_float_model_is_left_alone() -> None:
    proto = gru(0).model
    assert not is_quantized(proto)
    assert dequantized(proto) == (proto, ())


def test_operators_in_the_body_of_a_scan_are_replaced_as_those_of_the_main_graph_are() -> None:
    """The weights and scales are captured from the graph around it."""
    draw, size = np.random.default_rng(0).standard_normal, 8
    weight = np.round(40 * draw((size, size))).astype(np.int8)
    stored = {
        "w": weight,
        "w_scale": np.float32(0.01),
        "w_zero": np.int8(0),
        "h_scale": np.float32(2 / 255),
        "h_zero": np.uint8(128),
        "o_scale": np.float32(0.05),
        "h_start": np.zeros((1, size), np.float32),
    }
    product = ["q", "h_scale", "h_zero", "w", "w_scale", "w_zero", "o_scale", "h_zero"]
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])
        for name in ("h", "x", "h_new", "y")
    }
    body = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["h", "h_scale", "h_zero"], ["q"]),
            helper.make_node("QLinearMatMul", product, ["p"]),
            helper.make_node("DequantizeLinear", ["p", "o_scale", "h_zero"], ["r"]),
            helper.make_node("Add", ["x", "r"], ["s"]),
            helper.make_node("Tanh", ["s"], ["h_new"]),
            helper.make_node("Identity", ["h_new"], ["y"]),
        ],
        "step",
        [values["h"], values["x"]],
        [values["h_new"], values["y"]],
    )
    sequence = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [6, 1, size]) for name in ("xs", "ys")]
    graph = helper.make_graph(
        [helper.make_node("Scan", ["h_start", "xs"], ["last", "ys"], body=body, num_scan_inputs=1)],
        "g",
        sequence[:1],
        sequence[1:],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    floats, replaced = dequantized(proto)
    assert replaced
    assert not is_quantized(floats)
    analysis = audit(proto, num_samples=1)
    assert analysis.black_box is None
    (layer,) = analysis.layers
    assert layer.time_radius is not None
    assert layer.time_radius.mean > 0


def test_a_node_that_is_named_as_the_output_that_was_dequantised_does_not_clash(tmp_path: Path) -> None:
    """Quantised outputs keep their name, and so do nodes that were named after what they gave."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="y")
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    graph = helper.make_graph([node], "g", [x], [y], [weight])
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "float.onnx")
    given = np.linspace(-1, 1, 4, dtype=np.float32)[None]
    quantization.quantize_static(
        tmp_path / "float.onnx",
        tmp_path / "int8.onnx",
        Reader([{"x": given}]),
        quant_format=quantization.QuantFormat.QDQ,
    )
    floats, _ = dequantized(onnx.load(tmp_path / "int8.onnx"))
    (found,) = Reference(floats).run({"x": given}).values()
    np.testing.assert_allclose(found, given, atol=0.02)


@pytest.mark.parametrize("opset", [10, 11, 21])
def test_values_saturate_in_every_operator_set_that_can_quantise(opset: int) -> None:
    """Clip has its limits as attributes in the oldest one, as inputs in the others."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    stored = [numpy_helper.from_array(np.float32(0.1), "scale"), numpy_helper.from_array(np.uint8(0), "zero")]
    graph = helper.make_graph(nodes, "main", [x], [y], stored)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6)
    floats, _ = dequantized(proto)
    onnx.checker.check_model(floats, full_check=True)
    (found,) = Reference(floats).run({"x": np.array([-1, 0, 3.01, 40], np.float32)}).values()
    np.testing.assert_allclose(found, [0, 0, 3.01, 25.55], rtol=1e-6)
