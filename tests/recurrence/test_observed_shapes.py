"""Shapes that onnx does not infer, as behind operators of ONNX Runtime's own, are those of a run."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper, parser

from lsc_graph import audit

SIZE, T = 3, 5
SCAN = """
    {last}, {out} = Scan <num_scan_inputs = 1, body = {name} (h, x_t) => (h_new, y_t) {{
        r = MatMul(h, {weight})
        s = Add(r, x_t)
        h_new = com.microsoft.QuickGelu <alpha = 1.5> (s)
        y_t = Identity(h_new)
    }}> ({start}, {sequence})
"""


def two_scans() -> onnx.ModelProto:
    """The second one reads what the first one puts out, whose body holds an operator that is not known."""
    lower = SCAN.format(last="a", out="between", name="lower", weight="U", start="h0", sequence="x")
    upper = SCAN.format(last="b", out="y", name="upper", weight="V", start="a", sequence="between")
    text = f"""
        <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        main (float[{T}, 1, {SIZE}] x, float[1, {SIZE}] h0) => (float[{T}, 1, {SIZE}] y) {{ {lower} {upper} }}
    """
    model = parser.parse_model(text)
    draw = np.random.default_rng(0).standard_normal
    for name in "UV":
        model.graph.initializer.append(numpy_helper.from_array(draw((SIZE, SIZE), np.float32) / 2, name))
    return model


def test_a_scan_behind_one_with_an_unknown_operator_has_as_many_steps_as_a_run_shows() -> None:
    found = audit(two_scans(), num_samples=1)
    assert [recurrence.num_steps for recurrence in found.recurrences] == [T, T]
    assert [layer.state_size for layer in found.layers] == [SIZE, SIZE]
    assert found.black_box is not None
