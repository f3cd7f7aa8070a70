"""Operators said in other words, so that their conversion computes the same."""

from __future__ import annotations

import conformance
import onnx
import onnx_ir as ir
import pytest
import torch

from lsc_graph.to_torch.segment import Parameters, Segment


@pytest.mark.parametrize(
    "pattern",
    [
        "^test_constant_pad_(negative_)?axes(_cpu)?$",
        "^test_swish(_cpu)?$",
        "^test_cumsum_1d_int32(_exclusive)?(_cpu)?$",
    ],
)
def test_a_rewritten_operator_agrees_with_its_conformance_cases(pattern: str) -> None:
    cases = list(conformance.cases(pattern))
    assert cases
    assert {conformance.check(case).status for case in cases} == {conformance.AGREES}


def test_a_split_into_one_part_is_a_copy() -> None:
    """As tf2onnx unstacks a sequence of a single step."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    one (float[1, 3] x) => (float[3] y)
    <int64[1] zero = {0}>
    {
        part = Split<axis = 0>(x)
        y = Squeeze(part, zero)
    }
    """
    graph = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))).graph
    segment = Segment(graph, ["x"], ["y"], opsets={"": 17}, parameters=Parameters())
    x = torch.randn(1, 3)
    (y,) = segment(x)
    torch.testing.assert_close(y, x[0])
