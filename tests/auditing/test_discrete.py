"""What jumps and is used as a number is told apart from what only chooses among values."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from lsc_graph.audit_model import audit
from lsc_graph.auditing.discrete import jumps

CASES = {
    "y = Hardmax(v)": ["Hardmax"],
    "r = Relu(v)\n b = Cast<to = 9>(r)\n y = Cast<to = 1>(b)": ["Cast"],
    "b = Cast<to = 9>(v)\n y = Where(b, v, zero)": [],
    "b = IsInf(v)\n n = Not(b)\n y = Where(n, one, zero)": ["IsInf"],
    "b = IsNaN(v)\n y = Where(b, zero, v)": [],
    "t, i = TopK(v, three)\n f = Cast<to = 1>(i)\n y = Mul(f, one)": ["TopK"],
    "t, i = TopK(v, three)\n j = Add(i, i)\n k = Cast<to = 6>(j)\n y = Cast<to = 1>(k)": ["TopK"],
    "t, i = TopK(v, three)\n y = GatherElements<axis = 1>(v, i)": [],
    "t, i = TopK(v, three)\n y = GatherElements<axis = 1>(x, i)": ["TopK"],
    "t, i = TopK(v, three)\n y = ScatterElements<axis = 1>(x, i, t)": [],
    "t, i = TopK(v, three)\n y = ScatterElements<axis = 1>(x, i, x)": ["TopK"],
    "y, i = TopK(v, three)": [],
    "b = Cast<to = 9>(x)\n f = Cast<to = 1>(b)\n y = Add(f, v)": [],
}


@pytest.mark.parametrize("body", CASES)
def test_only_jumps_that_are_used_as_numbers_are_found(body: str) -> None:
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    step (float[1, 3] x, float[1, 3] v) => (float[1, 3] y)
    {{
        one = Constant<value = float {{1.0}}>()
        zero = Constant<value = float {{0.0}}>()
        three = Constant<value = int64[1] {{3}}>()
        {body}
    }}
    """
    graph = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))).graph
    assert [node.op_type for node in jumps(graph, [graph.inputs[1]])] == CASES[body]


def test_the_report_says_that_winners_cut_the_gradient() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    winners (float[8, 1, 3] x) => (float[8, 1, 3] y)
    <float[1, 3] start = {0.1, 0.2, 0.3}>
    {
        last, y = Scan<num_scan_inputs = 1,
          body = step (float[1, 3] h, float[1, 3] u) => (float[1, 3] n, float[1, 3] o)
        {
            half = Constant<value = float {0.5}>()
            sum = Add(h, u)
            won = Hardmax<axis = 1>(sum)
            kept = Mul(h, half)
            n = Add(kept, won)
            o = Identity(n)
        }>(start, x)
    }
    """
    analysis = audit(onnx.parser.parse_model(text), num_samples=1)
    assert any("(Hardmax) has zero derivative" in warning for warning in analysis.warnings)
