"""Which ways through a step are affine in all states together."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from lsc_graph.recurrence.unrolled.affine import is_affine_way


def value(name: str) -> ir.Value:
    return ir.val(name, dtype=ir.DataType.FLOAT, shape=(2, 2))


A, B, W = value("a"), value("b"), value("w")
WAYS = {
    "sum": ("Add", (A, B), True),
    "product with a weight": ("MatMul", (A, W), True),
    "product of both": ("MatMul", (A, B), False),
    "square": ("Mul", (A, A), False),
    "join": ("Concat", (A, W, B), True),
    "of a weight": ("Gemm", (W, A, B), True),
    "of both": ("Gemm", (A, B, W), False),
    "quotient": ("Div", (A, W), True),
    "divisor": ("Div", (W, A), False),
    "nonlinearity": ("Tanh", (A,), False),
    "nonlinearity of a weight": ("Tanh", (W,), True),
    "size": ("Reshape", (W, A), False),
}


@pytest.mark.parametrize(("op_type", "read", "expected"), WAYS.values(), ids=WAYS)
def test_one_operator_is_affine_if_it_adds_or_multiplies_by_what_is_fixed(
    op_type: str, read: tuple[ir.Value, ...], *, expected: bool
) -> None:
    assert is_affine_way([ir.node(op_type, read)], [A, B]) is expected


def test_what_is_computed_from_states_is_as_they_are() -> None:
    first = ir.node("MatMul", [A, W])
    assert is_affine_way([first, ir.node("Add", [first.outputs[0], B])], [A, B])
    assert not is_affine_way([first, ir.node("Mul", [first.outputs[0], B])], [A, B])


def test_operators_of_other_domains_are_not_known() -> None:
    assert not is_affine_way([ir.node("Add", [A, B], domain="other")], [A, B])
