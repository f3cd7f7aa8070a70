"""The single-precision twin of a half-precision model."""

from __future__ import annotations

import numpy as np
import onnx

from lsc_graph.canonical.precision import in_double_precision, in_single_precision, is_half
from lsc_graph.running.reference import Reference

HALF = """
<ir_version: 8, opset_import: ["" : 17]>
g (float16[2] x, bool go) => (float16[2] y)
{
    two = Constant<value = float[1] {2.0}>()
    c = Cast<to = 10>(two)
    size = Constant<value = int64[1] {2}>()
    ones = ConstantOfShape(size)
    wide = Cast<to = 1>(x)
    back = Cast<to = 10>(wide)
    m = Mul(back, c)
    y = If (go) <
        then_branch = a () => (float16[2] t) { t = Add(m, ones) },
        else_branch = b () => (float16[2] e) { k = Cast<to = 10>(wide) e = Sub(k, ones) }
    >
}
"""


def test_the_twin_computes_the_same_in_float32_branches_included() -> None:
    proto = onnx.parser.parse_model(HALF)
    filled = next(node for node in proto.graph.node if node.op_type == "ConstantOfShape")
    filled.attribute.append(
        onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(np.ones(1, dtype=np.float16)))
    )
    before = proto.SerializeToString()
    twin = in_single_precision(proto)
    assert proto.SerializeToString() == before
    assert is_half(proto)
    assert not is_half(twin)
    x = np.array([0.5, -3.0], dtype=np.float32)
    for go in (True, False):
        ours = Reference(twin).run({"x": x, "go": np.array(go)})["y"]
        theirs = Reference(proto).run({"x": x.astype(np.float16), "go": np.array(go)})["y"]
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs.astype(np.float32), rtol=1e-3)


def test_values_that_are_single_precision_unless_said_otherwise_become_double() -> None:
    twin = in_double_precision(
        onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x, int64[1] size) => (float[2] y)
        {
            zeros = ConstantOfShape(size)
            k = Constant<value_float = 2.0>()
            ks = Constant<value_floats = [1.0, 3.0]>()
            a = Mul(x, k)
            b = Mul(a, ks)
            y = Add(b, zeros)
        }
        """)
    )
    found = Reference(twin).run({"x": np.array([1.0, 1e-9]), "size": np.array([2])})["y"]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [2.0, 6e-9])
