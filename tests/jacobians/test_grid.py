"""The grid of local Jacobians has the edges of the cell graph, whichever way time runs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lsc_graph.audit_model import audit

T, H = 6, 4
STEP = """<ir_version: 8, opset_import: ["" : 17]>
step () => () {
    low = MatMul(p_old, A)
    kept = Mul(g_old, half)
    low_sum = Add(low, kept)
    low_all = Add(low_sum, x_t)
    g_new = Tanh(low_all)
    p_new = Identity(x_t)
    up = MatMul(q_old, B)
    held = Mul(h_old, half)
    up_sum = Add(up, held)
    up_all = Add(up_sum, g_new)
    h_new = Tanh(up_all)
    q_new = Identity(g_new)
    y = Identity(h_new)
}"""
STATES = ("g", "p", "h", "q")


def windows(*, is_reverse: bool) -> onnx.ModelProto:
    """Two layers, each of which reads what is below it now and at the step before, as a Scan carries it."""
    kind = TensorProto.FLOAT
    body = onnx.parser.parse_model(STEP).graph
    body.input.extend([helper.make_tensor_value_info(f"{s}_old", kind, [1, H]) for s in STATES])
    body.input.append(helper.make_tensor_value_info("x_t", kind, [1, H]))
    body.output.extend([helper.make_tensor_value_info(f"{s}_new", kind, [1, H]) for s in STATES])
    body.output.append(helper.make_tensor_value_info("y", kind, [1, H]))
    draw = np.random.default_rng(0).standard_normal
    tensors = {"A": draw((H, H)), "B": draw((H, H)), "half": np.full((1, H), 0.5), "zero": np.zeros((1, H))}
    names = [*["zero"] * len(STATES), "x"], [*(f"{s}_last" for s in STATES), "out"]
    scan = helper.make_node("Scan", *names, body=body, num_scan_inputs=1)
    for name in ("scan_input_directions", "scan_output_directions"):
        scan.attribute.append(helper.make_attribute(name, [int(is_reverse)]))
    graph = helper.make_graph(
        [scan],
        "windows",
        [helper.make_tensor_value_info("x", kind, [T, 1, H])],
        [helper.make_tensor_value_info("out", kind, [T, 1, H])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_delays_have_no_edges_in_time_and_growth_is_the_same_backwards() -> None:
    x = np.random.default_rng(1).standard_normal((1, T, 1, H)).astype(np.float32)
    forward = audit(windows(is_reverse=False), data={"x": x}, num_samples=1)
    backward = audit(windows(is_reverse=True), data={"x": x[:, ::-1].copy()}, num_samples=1)
    assert forward.growth.measured_log10 == pytest.approx(backward.growth.measured_log10, abs=0.05)
