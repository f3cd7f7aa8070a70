"""Shapes that inference of a whole model leaves open."""

from __future__ import annotations

import pytest
from onnx import parser

from lsc_graph.canonical.normalize import normalize
from lsc_graph.canonical.shapes import static_shape


@pytest.mark.parametrize(
    ("inputs", "goes_on", "shape"),
    [
        ("trips, yes", "go = Identity(c)", (4, 2)),
        ('trips, ""', "go = Identity(c)", (4, 2)),
        ("trips, yes", "go = Constant<value = bool {1}>()", (4, 2)),
        ("trips, no", "go = Identity(c)", (0, 2)),
        ("trips, yes", "go = Constant<value = bool {0}>()", None),
        ("trips, yes", "s = ReduceSum<keepdims = 0>(h) go = Less(s, level)", None),
        ('"", yes', "s = ReduceSum<keepdims = 0>(h) go = Less(s, level)", None),
    ],
)
def test_what_a_loop_collects_is_as_long_as_constants_say(
    inputs: str, goes_on: str, shape: tuple[int, ...] | None
) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[A] last, float[B, C] ys) {{
        trips = Constant<value_int = 4>() yes = Constant<value = bool {{1}}>()
        no = Constant<value = bool {{0}}>() level = Constant<value_float = 9.0>()
        sum = ReduceSum<keepdims = 0>(x) m = Less(sum, level)
        last, ys = If (m) <then_branch = then () => (float[2] b, float[B, C] bs) {{
            b, bs = Loop<body = step (int64 i, bool c, float[2] h) => (bool go, float[2] h_out, float[2] y) {{
                h_out = Add(h, x) y = Tanh(h) {goes_on}
            }}> ({inputs}, x)
        }}, else_branch = other () => (float[2] d, float[D, E] ds) {{
            d = Identity(x) ds = Constant<value = float[1, 1] {{0.0}}>()
        }}>
    }}"""
    model = normalize(parser.parse_model(text), {"x": (2,)}, {})
    (holder,) = (node for node in model.graph if node.op_type == "If")
    last, ys = holder.attributes["then_branch"].as_graph().outputs
    assert static_shape(last) == (2,)
    assert static_shape(ys) == shape
