"""Loops and fused operators in one model."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper, parser

from lsc_graph.audit_model import audit

T, H = 6, 3


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_an_operator_above_a_loop_is_compared_though_its_last_state_is_unused(op: str) -> None:
    block = f"float[{T}, 1, {H}]"
    text = f"""<ir_version: 10, opset_import: ["" : 18]>
    blocks ({block} x) => ({block} ys) {{
        driven = MatMul(x, W0)
        trips = Constant<value_int = 3>()
        zero = Constant<value_int = 0>()
        go = Less(zero, trips)
        z = Loop (trips, go, driven) <body = block (int64 i, bool c, {block} q) => (bool d, {block} r) {{
            d = Identity(c) a = MatMul(q, U0) b = Add(a, driven) r = Tanh(b)
        }}>
        y = {op}<hidden_size = {H}>(z, W, R)
        one = Constant<value_ints = [1]>()
        ys = Squeeze(y, one)
    }}"""
    model = parser.parse_model(text)
    draw, gates = np.random.default_rng(0).standard_normal, {"RNN": 1, "GRU": 3, "LSTM": 4}[op]
    tensors = {"W0": (H, H), "U0": (H, H), "W": (1, gates * H, H), "R": (1, gates * H, H)}
    model.graph.initializer.extend(
        numpy_helper.from_array(draw(shape).astype(np.float32) / 2, name) for name, shape in tensors.items()
    )
    found = audit(model, num_samples=1)
    assert [layer.depth_from for layer in found.layers][1:] == [("layer_0",)]
    assert found.parity.max_abs_error < 1e-5
