"""Integers stand for the numbers that ONNX says."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from lsc_graph.quantized.numbers import by_direction, ends, integers, real_values
from lsc_graph.running.reference import Array, Reference


def operator(op_type: str, inputs: dict[str, Array], axis: int, elem_type: int) -> Array:
    node = helper.make_node(op_type, list(inputs), ["y"], axis=axis)
    values = [
        helper.make_tensor_value_info(name, int(helper.np_dtype_to_tensor_dtype(value.dtype)), value.shape)
        for name, value in inputs.items()
    ]
    out = helper.make_tensor_value_info("y", elem_type, None)
    graph = helper.make_graph([node], "one", values, [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return Reference(model).run(inputs)["y"]


@pytest.mark.parametrize("axis", [0, 1])
def test_both_ways_agree_with_the_operators_of_onnx_runtime(axis: int) -> None:
    generator = np.random.default_rng(axis)
    x = generator.standard_normal((3, 5)).astype(np.float32)
    count = x.shape[axis]
    scale = (0.01 + generator.random(count) * 0.02).astype(np.float32)
    zero = generator.integers(-20, 20, count).astype(np.int8)
    quantized = operator("QuantizeLinear", {"x": x, "s": scale, "z": zero}, axis, TensorProto.INT8)
    np.testing.assert_array_equal(integers(x, scale, zero, axis, TensorProto.INT8), quantized)
    back = operator("DequantizeLinear", {"q": quantized, "s": scale, "z": zero}, axis, TensorProto.FLOAT)
    np.testing.assert_allclose(real_values(quantized, scale, zero, axis), back, rtol=1e-6)


def test_weights_of_each_direction_have_scales_of_their_own() -> None:
    quantized = np.arange(12, dtype=np.int8).reshape(2, 3, 2)
    found = by_direction(quantized, np.array([1.0, 10.0], np.float32), np.array([0, 1], np.int8))
    np.testing.assert_array_equal(found[0], quantized[0])
    np.testing.assert_array_equal(found[1], 10.0 * (quantized[1] - 1))


@pytest.mark.parametrize(
    ("elem_type", "zero", "expected"),
    [
        (TensorProto.UINT8, 0, (0.0, 255.5)),
        (TensorProto.INT8, -128, (0.0, 255.5)),
        (TensorProto.INT8, 127, (-255.5, 0.0)),
        (TensorProto.UINT8, 128, (-128.5, 127.5)),
    ],
)
def test_saturation_begins_half_a_step_beyond_the_last_integer_but_exactly_at_zero(
    elem_type: int, zero: int, expected: tuple[float, float]
) -> None:
    assert ends(elem_type, zero) == expected
