"""A state whose places only move on is taken apart: it delays, and is no layer with a nilpotent Jacobian."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from lsc_graph.audit_model import audit
from lsc_graph.recurrence.registers import origin, register_axis

PLACES, H, T = 3, 4, 7
BOUNDS = """<int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3},
int64[1] four = {4}, int64[1] axis = {2}>"""
WRITERS = {
    "cut, then joined": ("cut = Slice(s, one, three, axis)\n n = Concat<axis = 2>(cut, new)", 2),
    "joined, then cut": ("w = Concat<axis = 2>(s, new)\n n = Slice(w, one, four, axis)", 2),
    "towards the front": ("cut = Slice(s, zero, two, axis)\n n = Concat<axis = 2>(new, cut)", 2),
    "by Split": ("a, b, c = Split<axis = 2>(s)\n n = Concat<axis = 2>(b, c, new)", 2),
    "turned round": ("a, b, c = Split<axis = 2>(s)\n n = Concat<axis = 2>(b, a, new)", None),
    "with one that stays": ("a, b, c = Split<axis = 2>(s)\n n = Concat<axis = 2>(a, c, new)", None),
    "that decays": (
        "h = Add(s, s)\n cut = Slice(h, one, three, axis)\n n = Concat<axis = 2>(cut, new)",
        None,
    ),
    "fed by itself": (
        "r = ReduceMax<axes = [2]>(s)\n m = Add(r, new)\n cut = Slice(s, one, three, axis)"
        "\n n = Concat<axis = 2>(cut, m)",
        None,
    ),
    "new throughout": ("n = Concat<axis = 2>(new, new, new)", None),
}


def step(text: str) -> ir.Model:
    proto = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
    step (float[1, {H}, {PLACES}] s, float[1, {H}, 1] x) => (float[1, {H}, {PLACES}] n)
    {BOUNDS} {{
        new = Tanh(x)
        {text}
    }}""")
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


@pytest.mark.parametrize("name", WRITERS)
def test_every_place_takes_over_another_one_or_something_new(name: str) -> None:
    text, axis = WRITERS[name]
    graph = step(text).graph
    before, after = graph.inputs[0], graph.outputs[0]
    assert register_axis(before, after) == axis
    if axis is not None:
        taken = [origin(after, axis, place) for place in range(PLACES)]
        assert [index for source, index in taken if source is before] in ([1, 2], [0, 1])
        assert [str(source.name) for source, _ in taken if source is not before] == ["new"]


def windowed(carried: str) -> onnx.ModelProto:
    """A recurrence over a causal convolution of its input: carried in one register, or place by place."""
    places = [f"p{place}" for place in range(PLACES)]
    states = dict.fromkeys(places, f"float[1, {H}, 1]")
    text = f"w = Concat<axis = 2>({', '.join(places)}, u)"
    moved = [
        f"{name}_new = Identity({after})" for name, after in zip(places, (*places[1:], "u"), strict=True)
    ]
    if carried == "register":
        states = {"s": f"float[1, {H}, {PLACES}]"}
        text, moved = "w = Concat<axis = 2>(s, u)", ["s_new = Slice(w, one, four, axis)"]
    starts = ", ".join(f"{kind} {name}" for name, kind in states.items())
    results = ", ".join(f"{kind} {name}_new" for name, kind in states.items())
    finals = ", ".join(f"{name}_last" for name in ("h", *states))
    proto = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
    m (float[{T}, 1, {H}] x) => (float[{T}, 1, {H}] y) {{
        {finals}, y = Scan <num_scan_inputs = 1, body = step (float[1, {H}] h, {starts}, float[1, {H}] x_t)
            => (float[1, {H}] h_new, {results}, float[1, {H}] y_t) {{
            u = Unsqueeze(x_t, axis)
            {text}
            k = Mul(w, kernel)
            read = ReduceSum<keepdims = 0>(k, axis)
            back = MatMul(h, weight)
            all = Add(read, back)
            h_new = Tanh(all)
            y_t = Identity(h_new)
            {" ".join(moved)}
        }}> (h, {", ".join(states)}, x)
    }}""")
    generator = np.random.default_rng(0)
    arrays = {
        "kernel": generator.standard_normal((H, PLACES + 1)).astype(np.float32),
        "weight": (generator.standard_normal((H, H)) / 2).astype(np.float32),
        "h": np.zeros((1, H), np.float32),
        "axis": np.array([2]),
        "one": np.array([1]),
        "four": np.array([PLACES + 1]),
        "s": np.zeros((1, H, PLACES), np.float32),
        **{name: np.zeros((1, H, 1), np.float32) for name in places},
    }
    kept = {"kernel", "weight", "h", "axis", "one", "four", *states}
    proto.graph.initializer.extend(numpy_helper.from_array(arrays[name], name) for name in sorted(kept))
    return proto


def test_a_register_is_as_many_delays_and_no_layer() -> None:
    x = np.random.default_rng(1).standard_normal((1, T, 1, H)).astype(np.float32)
    whole, apart = (
        audit(windowed(carried), data={"x": x}, num_samples=1) for carried in ("register", "places")
    )
    (one,), (other,) = whole.layers, apart.layers
    assert one.state_size == other.state_size == H
    assert one.time_radius is not None
    assert other.time_radius is not None
    assert one.time_radius.mean == pytest.approx(other.time_radius.mean, rel=1e-6)
    for analysis in (whole, apart):
        (recurrence,) = analysis.recurrences
        assert [state.is_delay for state in recurrence.states] == [False, *(True for _ in range(PLACES))]
