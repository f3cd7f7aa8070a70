"""A graph input that recurrent operators start from and an output that they end in are one state."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from lsc_graph.models.lstm import lstm

from lsc_graph.canonical.normalize import normalize
from lsc_graph.recurrence.ends import states_of_operators

PACKED = """
    <ir_version: 8, opset_import: ["" : 17]>
    step (float[1, 1, 3] a, float[2, 1, 3] b) => (float[1, 1, 3] m, float[2, 1, 3] n)
    <float[1, 9, 3] w, float[1, 9, 3] r, int64[2] sizes = {1, 1}, int64[1] one = {1}>
    {
        b0, b1 = Split<axis = 0>(b, sizes)
        y0, n0 = GRU<hidden_size = 3>(a, w, r, , , b0)
        x1 = Squeeze(y0, one)
        y1, n1 = GRU<hidden_size = 3>(x1, w, r, , , b1)
        m = Squeeze(y1, one)
        WRITER
    }
"""


def graph(writer: str) -> ir.Graph:
    return ir.from_proto(onnx.parser.parse_model(PACKED.replace("WRITER", writer))).graph


def test_states_of_two_operators_in_one_tensor_are_a_state_whatever_their_names() -> None:
    assert states_of_operators(graph("n = Concat<axis = 0>(n0, n1)")) == (("b", "n"),)


@pytest.mark.parametrize(
    "writer",
    [
        "n = Concat<axis = 0>(n0, a)",
        "n = Concat<axis = 0>(n0, n0)",
        "both = Concat<axis = 0>(n0, n1)\n n = Tanh(both)",
    ],
    ids=["something else in it", "one of two states", "computed with"],
)
def test_outputs_that_are_not_just_the_final_states_prove_nothing(writer: str) -> None:
    assert states_of_operators(graph(writer)) == ()


def test_h_and_c_are_told_apart_without_their_names() -> None:
    model = normalize(
        lstm(0, initial_state="input").model, {"x": (1, 1, 8), "h_0": (2, 1, 16), "c_0": (2, 1, 16)}, {}
    )
    assert states_of_operators(model.graph) == (("h_0", "h_n"), ("c_0", "c_n"))
