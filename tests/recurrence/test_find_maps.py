"""Loops whose steps hand nothing on are maps over time: no recurrences, but part of what is around them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lsc_graph.audit_model import audit

T, H = 6, 4
MAP = f"""s = Loop (trips, go) <body = step (int64 t, bool c) => (bool c_out, float[1,{H}] y_t) {{
    c_out = Identity(c) x_t = Gather <axis = 0> (x, t) b = MatMul(x_t, u) y_t = Tanh(b) }}>"""
SCAN = f"""s = Scan <num_scan_inputs = 1, body = step (float[1,{H}] x_t) => (float[1,{H}] y_t) {{
    b = MatMul(x_t, u) y_t = Tanh(b) }}> (x)"""
RECURRENCE = f"""last, y = Scan <num_scan_inputs = 1,
    body = cell (float[1,{H}] h, float[1,{H}] s_t) => (float[1,{H}] h_new, float[1,{H}] y_s) {{
    d = MatMul(h, w) e = Add(d, s_t) h_new = Tanh(e) y_s = Identity(h_new) }}> (start, s)"""


def model(*nodes: str) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["" : 18]>
        m (float[{T},1,{H}] x) => (float[{T},1,{H}] y) {{ {" ".join(nodes)} }}""")
    rng = np.random.default_rng(0)
    arrays = {name: (0.4 * rng.standard_normal((H, H))).astype(np.float32) for name in "uw"}
    arrays |= {"start": np.zeros((1, H), np.float32), "trips": np.array(T), "go": np.array(True)}
    for name, array in arrays.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


@pytest.mark.parametrize("mapped", [MAP, SCAN])
def test_a_map_alone_is_a_block_without_recurrence(mapped: str) -> None:
    analysis = audit(model(mapped, "y = Identity(s)"), num_samples=1)
    assert analysis.recurrences == ()
    assert [layer.recurrence for layer in analysis.layers] == [None]
    assert any("hands anything on" in refusal.reason for refusal in analysis.refusals)


@pytest.mark.parametrize("mapped", [MAP, SCAN])
def test_a_recurrence_behind_a_map_is_the_only_one(mapped: str) -> None:
    analysis = audit(model(mapped, RECURRENCE), num_samples=1)
    plain = audit(model("b = MatMul(x, u)", "s = Tanh(b)", RECURRENCE), num_samples=1)
    (recurrence,), (layer,), (expected,) = analysis.recurrences, analysis.layers, plain.layers
    assert (recurrence.num_steps, recurrence.weights) == (T, ("w",))
    assert layer.time_radius is not None
    assert expected.time_radius is not None
    assert layer.time_radius.mean == pytest.approx(expected.time_radius.mean, abs=1e-6)
    assert any("hands anything on" in warning for warning in analysis.warnings)
