"""Models that take over given values compute the next ones from these, and show their own beside them."""

from __future__ import annotations

import numpy as np
import onnx

from lsc_graph.running.reference import Reference
from lsc_graph.running.restarted import LoopState, restarted

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
SCAN = f"""{HEAD} g (float[4, 1] x, float[1] h0, int64[1] n0) => (float[1] last, float[4, 1] y)
{{
    last, n, y = Scan <num_scan_inputs = 1, body = step (float[1] h, int64[1] k, float[1] x_t)
        => (float[1] h_new, int64[1] k_new, float[1] y_t)
        {{ two = Add(h, h) h_new = Add(two, x_t) k_new = Add(k, k) y_t = Identity(h) }}> (h0, n0, x)
}}"""


def test_a_loop_reads_the_states_that_are_given_but_its_own_first_one() -> None:
    states = np.array([[10], [20], [30], [40]], np.float32)
    found = restarted(onnx.parser.parse_model(SCAN), {}, [[LoopState("h0", "last", states)]])
    assert found is not None
    own = {"x": np.ones((4, 1), np.float32), "h0": np.array([5], np.float32), "n0": np.array([1])}
    values = Reference(found.proto).run(own | found.given)
    # Whatever reads the state reads what was given, and every step shows what it made of it.
    assert values["y"].ravel().tolist() == [5, 10, 20, 30]
    (name,) = found.expected
    assert values[name].ravel().tolist() == [11, 21, 41, 61]
    assert values["last"].tolist() == [61]


def test_a_loop_that_carries_more_numbers_is_not_taken_for_it() -> None:
    other = LoopState("h0", "y", np.zeros((4, 1), np.float32))
    assert restarted(onnx.parser.parse_model(SCAN), {}, [[other]]) is None
    assert restarted(onnx.parser.parse_model(SCAN), {}, [[]]) is None


def test_values_of_the_main_graph_are_given_and_shown() -> None:
    proto = onnx.parser.parse_model(
        f"{HEAD} g (float[2] x) => (float[2] a, float[2] b) {{ a = Add(x, x) b = Mul(a, x) }}"
    )
    found = restarted(proto, {"a": np.array([7, 9], np.float32)}, [])
    assert found is not None
    values = Reference(found.proto).run({"x": np.array([2, 3], np.float32)} | found.given)
    assert {name: value.tolist() for name, value in values.items()} == {"a/own": [4, 6], "b": [14, 27]}
