"""Layers that are parallel over time, before or behind all recurrences, are named."""

from __future__ import annotations

import pytest
from parsed_models import parsed

from lsc_graph.auditing.outside import parts_outside
from lsc_graph.planning import Request
from lsc_graph.prepare import prepare

TEXT = """<ir_version: 8, opset_import: ["" : 18]>
g (float[6, 1, 4] x) => (float y)
<int64 axis = {0}, int64[1] zero = {0}, int64[1] first = {1}, int64[1] five = {5},
 int64[1] six = {6}, int64[1] feature = {2}, int64[1] two = {2}, int64[1] four = {4},
 int64[6] before = {1, 0, 0, 0, 0, 0}> {
    %s
    y = RNN <hidden_size=4> (z, w, r)
}"""
CONV = """t = Transpose <perm = [1, 2, 0]> (x)
    c = Conv %s (t, %s)
    z = Transpose <perm = [2, 0, 1]> (c)"""
ACROSS = {
    "shifted": "s = Slice(x, zero, five, zero)\np = Pad(s, before)\nz = Add(x, p)",
    "overlapping": "s = Slice(x, zero, five, zero)\np = Slice(x, first, six, zero)\nz = Add(s, p)",
    "polyphase": "s = Slice(x, zero, six, zero, two)\np = Slice(x, first, six, zero, two)\nz = Add(s, p)",
    "convolution": CONV % ("<pads = [2, 0]>", "k"),
    "total": "z = CumSum(x, axis)",
    "statistics": """t = Transpose <perm = [1, 2, 0]> (x)
    n = InstanceNormalization(t, b, b)
    z = Transpose <perm = [2, 0, 1]> (n)""",
    "attention, by Einsum": """s = Einsum <equation = "tbd,sbd->bts"> (x, x)
    p = Softmax(s)
    z = Einsum <equation = "bts,sbd->tbd"> (p, x)""",
    "attention": """q = Transpose <perm = [1, 0, 2]> (x)
    t = Transpose <perm = [1, 2, 0]> (x)
    s = MatMul(q, t)
    p = Softmax(s)
    a = MatMul(p, q)
    z = Transpose <perm = [1, 0, 2]> (a)""",
}
ALIKE = {
    "gates": """s = Slice(x, zero, two, feature)
    p = Slice(x, two, four, feature)
    z = Concat <axis = 2> (p, s)""",
    "pointwise": CONV % ("", "one"),
    "one matrix": "z = MatMul(x, u)",
}


def said(body: str) -> str:
    proto = parsed(
        TEXT % body, w=(1, 4, 4), r=(1, 4, 4), u=(4, 4), k=(4, 4, 3), one=(4, 4, 1), all=(6, 6), b=(4,)
    )
    return "\n".join(parts_outside(prepare(proto, Request(None, {}, {}, (), {}))))


@pytest.mark.parametrize("name", ACROSS)
def test_what_puts_positions_together_before_the_first_layer_is_named(name: str) -> None:
    assert "before the first layer puts several positions together" in said(ACROSS[name])


@pytest.mark.parametrize("name", ALIKE)
def test_what_works_on_each_position_by_itself_is_not(name: str) -> None:
    assert "several positions" not in said(ALIKE[name])
