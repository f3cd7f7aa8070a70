"""A loop that only adds up is pooling; one whose state decays, mixes or is squashed is a recurrence."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper
from onnx.parser import parse_model

from lsc_graph.audit_model import audit
from lsc_graph.planning import Request
from lsc_graph.prepare import prepare

T, H = 5, 3


def model_of(step: str) -> object:
    """A Scan over x from zeros whose last state is read out; `step` computes `h_new` from `h` and `xt`."""
    proto = parse_model(
        f"""<ir_version: 10, opset_import: ["" : 18]>
        m (float[{T},1,{H}] x) => (float[1,{H}] y) {{
            u = MatMul(x, w)
            last = Scan <num_scan_inputs = 1, body = step (float[1,{H}] h, float[1,{H}] xt)
                => (float[1,{H}] out) {{ {step} out = Identity(h_new) }}> (zeros, u)
            y = MatMul(last, w)
        }}"""
    )
    weight = np.random.default_rng(0).standard_normal((H, H))
    for name, value in {"w": weight, "zeros": np.zeros((1, H)), "d": np.full(H, 0.9)}.items():
        proto.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    return proto


@pytest.mark.parametrize(
    "step", ["h_new = Add(h, xt)", "r = Relu(xt) h_new = Add(r, h)", "h_new = Max(h, xt)"]
)
def test_sums_and_maxima_are_no_recurrences(step: str) -> None:
    analysis = audit(model_of(step), num_samples=1)
    assert analysis.recurrences == ()
    assert any("running total" in refusal.reason for refusal in analysis.refusals)


@pytest.mark.parametrize(
    "step",
    [
        "k = Mul(h, d) h_new = Add(k, xt)",
        "r = Relu(h) h_new = Add(h, r)",
        "s = Add(h, xt) h_new = Tanh(s)",
        "g = Mul(h, xt) h_new = Add(h, g)",
        "h_new = Add(h, h)",
    ],
)
def test_whatever_the_state_enters_otherwise_is_a_recurrence(step: str) -> None:
    assert len(prepare(model_of(step), Request(None, {}, {}, (), {})).findings.sites) == 1


def attention(*, is_read: bool) -> object:
    """m[t] = m[t-1] + k[t] v[t]; y[t] = q[t] m[t], or the last m alone."""
    output = f"float[{T},1,{H}] y" if is_read else f"float[1,{H},{H}] y"
    ends = ("last", "y") if is_read else ("y", "unused")
    proto = parse_model(
        f"""<ir_version: 10, opset_import: ["" : 18]>
        m (float[{T},1,{H}] x) => ({output}) {{
            u = MatMul(x, w)
            {ends[0]}, {ends[1]} = Scan <num_scan_inputs = 1,
                body = step (float[1,{H},{H}] m, float[1,{H}] xt)
                    => (float[1,{H},{H}] next, float[1,{H}] out) {{
                    k = Unsqueeze(xt, two) v = Unsqueeze(xt, one) kv = MatMul(k, v) next = Add(m, kv)
                    qm = MatMul(v, next) out = Squeeze(qm, one) }}> (zeros, u)
        }}"""
    )
    weight = np.random.default_rng(0).standard_normal((H, H)).astype(np.float32)
    constants = {
        "w": weight,
        "zeros": np.zeros((1, H, H), np.float32),
        "one": np.array([1]),
        "two": np.array([2]),
    }
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return proto


@pytest.mark.parametrize("is_read", [False, True])
def test_a_total_that_every_step_reads_is_a_state(*, is_read: bool) -> None:
    sites = prepare(attention(is_read=is_read), Request(None, {}, {}, (), {})).findings.sites
    assert len(sites) == is_read
