"""Thresholds that cut the gradient are told apart from comparisons that only select."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from lsc_graph.recurrence.thresholds import cut_points

CASES = {
    "above = Greater(v, one)\n y = Cast<to = 1>(above)": ["Greater"],
    "above = Greater(v, one)\n flipped = Not(above)\n y = Cast<to = 1>(flipped)": ["Greater"],
    "above = Greater(v, one)\n y = Where(above, one, zero)": ["Greater"],
    "above = Greater(v, one)\n y = Where(above, v, zero)": [],
    "above = Greater(x, one)\n y0 = Cast<to = 1>(above)\n y = Add(y0, v)": [],
    "y = Sign(v)": ["Sign"],
    "y = Round(v)": ["Round"],
    "i = Cast<to = 7>(v)\n y = Cast<to = 1>(i)": ["Cast"],
    "y = Tanh(v)": [],
}


@pytest.mark.parametrize("body", CASES)
def test_only_steps_that_feed_numbers_on_are_cut_points(body: str) -> None:
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    step (float[1, 3] x, float[1, 3] v) => (float[1, 3] y)
    {{
        one = Constant<value = float {{1.0}}>()
        zero = Constant<value = float {{0.0}}>()
        {body}
    }}
    """
    graph = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))).graph
    assert [node.op_type for node in cut_points(graph, [graph.inputs[1]])] == CASES[body]
