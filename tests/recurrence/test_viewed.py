"""Packed states come apart though steps see them in another shape or order of axes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from lsc_graph.audit_model import audit
from lsc_graph.recurrence.viewed import View
from lsc_graph.results import Analysis

T, H = 6, 3
CELLS = """
    a = MatMul(x_t, W0) b = MatMul(h, U0) c = Add(a, b) h_new = Tanh(c)
    d = MatMul(h_new, W1) e = MatMul(g, U1) f = Add(d, e) g_new = Tanh(f)
"""
ROWS = "h = Gather<axis = 0>(rows, zero) g = Gather<axis = 0>(rows, one)"
PACKED = {
    "flat": (
        (6,),
        f"shape = Constant<value = int64[3] {{2, 1, 3}}>() rows = Reshape(s, shape) {ROWS}",
        "both = Concat<axis = 0>(h_new, g_new) "
        "flat = Constant<value = int64[1] {6}>() s_out = Reshape(both, flat)",
    ),
    "flat, of a stack": (
        (1, 6),
        f"shape = Constant<value = int64[3] {{2, 1, 3}}>() rows = Reshape(s, shape) {ROWS}",
        "u = Unsqueeze(h_new, ax) v = Unsqueeze(g_new, ax) both = Concat<axis = 0>(u, v) "
        "flat = Constant<value = int64[2] {1, 6}>() s_out = Reshape(both, flat)",
    ),
    "transposed": (
        (1, 3, 2),
        f"rows = Transpose<perm = [2, 0, 1]>(s) {ROWS}",
        "u = Unsqueeze(h_new, ax) v = Unsqueeze(g_new, ax) both = Concat<axis = 0>(u, v) "
        "s_out = Transpose<perm = [1, 2, 0]>(both)",
    ),
    "unit by unit": (
        (1, 6),
        "shape = Constant<value = int64[3] {1, 3, 2}>() seen = Reshape(s, shape) "
        f"rows = Transpose<perm = [2, 0, 1]>(seen) {ROWS}",
        "last = Constant<value = int64[1] {2}>() u = Unsqueeze(h_new, last) v = Unsqueeze(g_new, last) "
        "both = Concat<axis = 2>(u, v) "
        "flat = Constant<value = int64[2] {1, 6}>() s_out = Reshape(both, flat)",
    ),
}
MIXED = {"mixed": (*PACKED["unit by unit"][:2], "s_out = Concat<axis = 1>(h_new, g_new)")}
CONSTANTS = (
    "zero = Constant<value_int = 0>() one = Constant<value_int = 1>() ax = Constant<value_ints = [0]>()"
)


def model_of(signature: str, nodes: str, shape: tuple[int, ...]) -> onnx.ModelProto:
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> m {signature} {{{nodes}}}')
    draw = np.random.default_rng(0).standard_normal
    tensors = {name: draw((H, H)).astype(np.float32) for name in ("W0", "U0", "W1", "U1")}
    tensors["start"] = draw(shape).astype(np.float32)
    model.graph.initializer.extend(numpy_helper.from_array(own, name) for name, own in tensors.items())
    return model


def scanned(packed: str) -> onnx.ModelProto:
    shape, read, written = (PACKED | MIXED)[packed]
    state = f"float[{', '.join(map(str, shape))}]"
    body = f"step ({state} s, float[1, {H}] x_t) => ({state} s_out, float[1, {H}] y)"
    nodes = f"{CONSTANTS} {read} {CELLS} {written} y = Identity(g_new)"
    text = f"s_last, ys = Scan<num_scan_inputs = 1, body = {body} {{{nodes}}}> (start, x)"
    return model_of(f"(float[{T}, 1, {H}] x) => (float[{T}, 1, {H}] ys, {state} s_last)", text, shape)


def streaming(packed: str) -> onnx.ModelProto:
    shape, read, written = PACKED[packed]
    state = f"float[{', '.join(map(str, shape))}]"
    signature = f"(float[1, {H}] x_t, {state} state) => (float[1, {H}] y, {state} state_out)"
    read, written = read.replace("(s", "(state"), written.replace("s_out", "state_out")
    read = read.replace("(stateeen", "(seen")
    return model_of(signature, f"{CONSTANTS} {read} {CELLS} {written} y = Identity(g_new)", shape)


def figures(found: Analysis) -> list[float]:
    values = []
    for layer in found.layers:
        assert layer.time_radius
        values += [layer.state_size, layer.time_radius.mean, *(edge.gain.mean for edge in layer.depth_edges)]
    return values


@pytest.mark.parametrize("packed", PACKED)
def test_a_loop_carries_its_parts(packed: str) -> None:
    """Parity with ONNX Runtime, which is part of every audit, covers first and last states."""
    found = audit(scanned(packed), num_samples=1)
    assert [layer.state_size for layer in found.layers] == [H, H]
    assert [layer.depth_times for layer in found.layers] == [(), ((0,),)]
    assert found.grid.num_gradient_paths == str(T)


@pytest.mark.parametrize("packed", PACKED)
def test_a_streaming_model_carries_its_parts(packed: str) -> None:
    found, expected = (audit(streaming(how), num_samples=1, num_steps=T) for how in (packed, "flat"))
    assert [layer.depth_times for layer in found.layers] == [(), ((0,),)]
    assert figures(found) == pytest.approx(figures(expected), rel=1e-5)


def test_a_state_that_is_not_written_as_it_is_read_stays_whole() -> None:
    """Read unit by unit, and written part by part: each part then is made of units of both."""
    found = audit(scanned("mixed"), num_samples=1)
    assert [layer.state_size for layer in found.layers] == [2 * H]


@pytest.mark.parametrize("view", [View((2, 3), (6,)), View((2, 3, 4), (4, 2, 3), (2, 0, 1))])
def test_what_is_seen_otherwise_is_seen_as_it_was(view: View) -> None:
    value = np.random.default_rng(0).standard_normal(view.before)
    assert view.of(value).shape == view.after
    assert np.array_equal(view.undone.of(view.of(value)), value)


HELD = {
    "what the step reads": "Reshape(x_t, flat)",
    "another state": "Reshape(h, flat)",
    "a constant": "Reshape(one_row, flat)",
    "itself": "Reshape(rows, flat)",
    "the new state": "Reshape(h_new, flat)",
}


def with_held(written: str) -> onnx.ModelProto:
    row = f"float[1, {H}]"
    body = f"step (float[{H}] s, {row} h, {row} x_t) => (float[{H}] s_out, {row} h_new)"
    nodes = (
        f"row = Constant<value_ints = [1, {H}]>() rows = Reshape(s, row) "
        f"flat = Constant<value_ints = [{H}]>() "
        f"one_row = MatMul(z, W0) a = Add(x_t, rows) b = MatMul(h, U0) c = Add(a, b) h_new = Tanh(c) "
        f"s_out = {HELD[written]}"
    )
    text = f"""
        z = Constant<value = float[1, {H}] {{0.1, 0.2, 0.3}}>()
        s_last, h_last = Scan<num_scan_inputs = 1, body = {body} {{{nodes}}}> (start, z, x)
        """
    return model_of(f"(float[{T}, 1, {H}] x) => (float[{H}] s_last, float[1, {H}] h_last)", text, (H,))


@pytest.mark.parametrize("written", HELD)
def test_a_state_seen_otherwise_that_holds_a_single_value_is_carried_as_it_is(written: str) -> None:
    (found,) = audit(with_held(written), num_samples=1).recurrences
    assert {state.shape for state in found.states} <= {(H,), (1, H)}
    assert not any(state.name.endswith(".seen") for state in found.states)


def test_a_single_state_that_is_seen_otherwise_keeps_its_name_and_shape() -> None:
    nodes = f"""
        row = Constant<value_ints = [1, {H}]>() flat = Constant<value_ints = [{H}]>()
        h = Reshape(state, row) a = Add(x_t, h) b = MatMul(a, U0) y = Tanh(b) state_out = Reshape(y, flat)
        """
    signature = f"(float[1, {H}] x_t, float[{H}] state) => (float[1, {H}] y, float[{H}] state_out)"
    model = model_of(signature, nodes, ())
    (found,) = audit(model, num_samples=1, num_steps=T).recurrences
    assert [(state.name, state.shape) for state in found.states] == [("state", (H,))]
