"""Loops that the data end: audited at one length, samples of other lengths left out and named."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lsc_graph.audit_model import audit
from lsc_graph.errors import AnalysisError
from lsc_graph.results import Axis

H = 4
RNG = np.random.default_rng(0)
WEIGHT = (0.8 * RNG.standard_normal((H, H)) / H**0.5).astype(np.float32)


def as_long_as_told() -> onnx.ModelProto:
    """h = tanh(h u + x[t]) for as many steps as the input `length` says."""
    proto = onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["" : 18]>
        m (float[1] length, float[9,1,{H}] x) => (float[1,{H}] last) {{
            number = Cast <to = 7> (length) shape = Constant <value_ints = [0]> ()
            none = Constant <value_ints = [-1]> ()
            trips = Squeeze(number)
            last = Loop (trips, , start) <body = step (int64 t, bool c, float[1,{H}] h)
                => (bool c_out, float[1,{H}] h_new) {{
                c_out = Identity(c) x_t = Gather <axis = 0> (x, t)
                b = MatMul(h, u) s = Add(b, x_t) h_new = Tanh(s) }}>
        }}""")
    for name, array in (("u", WEIGHT), ("start", np.zeros((1, H), np.float32))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


def data(*lengths: int) -> dict[str, np.ndarray]:
    x = np.random.default_rng(1).standard_normal((len(lengths), 9, 1, H)).astype(np.float32)
    return {"length": np.array(lengths, np.float32)[:, None], "x": x}


def radius_by_hand(x: np.ndarray, length: int) -> float:
    h, radii = np.zeros((1, H)), []
    for time in range(length):
        h = np.tanh(h @ WEIGHT.astype(float) + x[time])
        jacobian = (1 - h**2).T * WEIGHT.T
        radii.append(np.abs(np.linalg.eigvals(jacobian)).max())
    return float(np.mean(radii[1:]))


def test_samples_of_the_most_frequent_length_are_measured_and_the_others_left_out() -> None:
    given = data(5, 7, 7, 3, 7)
    analysis = audit(as_long_as_told(), data=given, num_samples=5)
    (recurrence,), (layer,) = analysis.recurrences, analysis.layers
    assert (recurrence.num_steps, recurrence.over) == (7, Axis.TIME)
    assert layer.time_radius is not None
    assert layer.time_radius.num_points == 3 * 6
    expected = np.mean([radius_by_hand(given["x"][sample], 7) for sample in (1, 2, 4)])
    assert layer.time_radius.mean == pytest.approx(expected, abs=1e-5)
    assert any("2 of 5 samples were left out" in w and "(3, 5)" in w for w in analysis.warnings)


def test_samples_of_one_length_are_all_measured_and_nothing_is_said() -> None:
    analysis = audit(as_long_as_told(), data=data(4, 4), num_samples=2)
    assert analysis.recurrences[0].num_steps == 4
    assert not any("left out" in warning for warning in analysis.warnings)


def test_a_requested_precision_ends_where_no_more_samples_fit() -> None:
    analysis = audit(as_long_as_told(), data=data(6, 6, 2, 6), num_samples=2, precision=1e-6)
    assert analysis.precision is not None
    assert (analysis.precision.is_reached, analysis.precision.num_samples) == (False, 3)


def test_where_no_sample_fits_the_audit_says_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsc_graph.auditing.lengths.MAX_DRAWN", 2)
    given = data(2, 3, 7, 7)
    with pytest.raises(AnalysisError, match=r"2 of 2 samples were left out: .* for 7 steps on them \(2, 3\)"):
        audit(as_long_as_told(), data=given, num_samples=1)
