"""Loops that read their state from the buffer that they write their results into."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lsc_graph.audit_model import audit
from lsc_graph.results import Analysis, Direction

T, H = 6, 4
RNG = np.random.default_rng(0)
WEIGHT = (0.8 * RNG.standard_normal((H, H)) / H**0.5).astype(np.float32)
X = RNG.standard_normal((T, 1, H)).astype(np.float32)


def loop(shape: str, body: str, **arrays: object) -> onnx.ModelProto:
    """A Loop of T steps over x [T, 1, H] that carries a buffer `ys` of a shape, zero at first."""
    proto = onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["" : 18]>
        m (float[{T},1,{H}] x) => (float[{shape}] last) {{
            last = Loop (trips, go, zeros) <body = step (int64 t, bool c, float[{shape}] ys)
                => (bool c_out, float[{shape}] ys_out) {{ c_out = Identity(c) {body} }}>
        }}""")
    given = {
        "u": WEIGHT,
        "trips": np.array(T),
        "go": np.array(True),
        "one": np.array(1),
        "first": np.array([0]),
    }
    given["zeros"] = np.zeros([int(size) for size in shape.split(",")], np.float32)
    for name, array in (given | arrays).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return proto


CELL = "x_t = Gather (x, {x}) b = MatMul(h, u) s = Add(b, x_t) h_new = Tanh(s)"
PLAIN = loop(f"1,{H}", "h = Identity(ys) " + CELL.format(x="t") + " ys_out = Identity(h_new)")
HISTORY = loop(
    f"{T + 1},1,{H}",
    "h = Gather (ys, t) "
    + CELL.format(x="t")
    + """
    next = Add(t, one) where = Unsqueeze(next, first) place = Unsqueeze(where, first)
    row = Unsqueeze(h_new, first) ys_out = ScatterND(ys, place, row)""",
)
BACKWARDS = loop(
    f"{T + 1},1,{H}",
    "before = Sub(end, t) at = Sub(before, one) h = Gather (ys, before) "
    + CELL.format(x="at")
    + """
    where = Unsqueeze(at, first) place = Unsqueeze(where, first)
    row = Unsqueeze(h_new, first) ys_out = ScatterND(ys, place, row)""",
    end=np.array(T),
)
ALONG_THE_SECOND_AXIS = loop(
    f"1,{T + 1},{H}",
    "h = Gather <axis = 1> (ys, t) "
    + CELL.format(x="t")
    + """
    next = Add(t, one) where = Unsqueeze(next, first) pair = Concat <axis = 0> (first, where)
    place = Unsqueeze(pair, first) ys_out = ScatterND(ys, place, h_new)""",
)
TWO_STEPS_BACK = loop(
    f"{T + 2},1,{H}",
    "h = Gather (ys, t) "
    + CELL.format(x="t")
    + """
    next = Add(t, two) where = Unsqueeze(next, first) place = Unsqueeze(where, first)
    row = Unsqueeze(h_new, first) ys_out = ScatterND(ys, place, row)""",
    two=np.array(2),
)
OF_ALL_ROWS = loop(
    f"{T + 1},1,{H}",
    "h = ReduceMean <keepdims = 0> (ys, first) "
    + CELL.format(x="t")
    + """
    next = Add(t, one) where = Unsqueeze(next, first) place = Unsqueeze(where, first)
    row = Unsqueeze(h_new, first) ys_out = ScatterND(ys, place, row)""",
)


def audited(model: onnx.ModelProto, x: np.ndarray = X) -> Analysis:
    return audit(model, data={"x": x}, num_samples=1)


@pytest.mark.parametrize(
    ("model", "x", "direction"),
    [
        (HISTORY, X, Direction.FORWARD),
        (BACKWARDS, X[::-1].copy(), Direction.REVERSE),
        (ALONG_THE_SECOND_AXIS, X, Direction.FORWARD),
    ],
)
def test_the_row_that_was_written_last_is_the_state(
    model: onnx.ModelProto, x: np.ndarray, direction: Direction
) -> None:
    found, expected = audited(model, x), audited(PLAIN)
    assert found.recurrences[0].direction is direction
    assert found.grid == expected.grid
    (mine,), (its,) = found.layers, expected.layers
    assert mine.state_size == its.state_size == H
    assert mine.time_radius is not None
    assert its.time_radius is not None
    assert mine.time_radius.mean == pytest.approx(its.time_radius.mean, abs=1e-5)


@pytest.mark.parametrize("model", [TWO_STEPS_BACK, OF_ALL_ROWS])
def test_a_buffer_of_which_more_than_the_last_row_is_read_is_a_state_as_a_whole(
    model: onnx.ModelProto,
) -> None:
    (layer,) = audited(model).layers
    assert layer.state_size > H
