"""Where derivatives are finite whatever the state is, and where not."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from onnx import parser

from lsc_graph.canonical.normalize import normalize
from lsc_graph.recurrence.singular import may_be_singular


def last(nodes: str) -> tuple[ir.Node, ir.Value]:
    """The node that gives y, and the input x."""
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[2, 3] x) => (float[2, 3] y) {{{nodes}}}'
    model = normalize(parser.parse_model(text), {"x": (2, 3)}, {})
    node = model.graph.outputs[0].producer()
    assert node is not None
    return node, model.graph.inputs[0]


NUMBERS = "one = Constant<value_float = 1.0>() half = Constant<value_float = 0.5>()"
SQUARE = f"{NUMBERS} s = Mul(x, x)"


@pytest.mark.parametrize(
    "nodes",
    [
        f"{NUMBERS} y = Log(x)",
        f"{SQUARE} y = Sqrt(s)",
        "e = Exp(x) y = Tan(e)",
        f"{NUMBERS} y = Pow(x, half)",
    ],
)
def test_roots_and_logarithms_may_be_singular(nodes: str) -> None:
    node, source = last(nodes)
    assert may_be_singular(node, 0, source)


@pytest.mark.parametrize(
    "nodes",
    [f"{SQUARE} p = Add(s, one) y = Sqrt(p)", "e = Exp(x) y = Log(e)", f"{NUMBERS} y = Mul(x, one)"],
)
def test_what_stays_away_from_zero_is_not(nodes: str) -> None:
    node, source = last(nodes)
    assert not may_be_singular(node, 0, source)


def test_what_is_above_zero_is_not_if_it_may_be_replaced() -> None:
    node, source = last("e = Exp(x) y = Log(e)")
    exponential = node.inputs[0]
    assert exponential is not None
    assert may_be_singular(node, 0, exponential)
    assert not may_be_singular(node, 0, source)


def test_a_denominator_may_be_singular_and_a_numerator_not() -> None:
    node, source = last("t = Tanh(x) y = Div(x, t)")
    assert not may_be_singular(node, 0, source)
    assert may_be_singular(node, 1, source)
