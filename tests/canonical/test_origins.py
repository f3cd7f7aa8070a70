"""Every trained tensor of a normalised model is found again in the file."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lsc_graph.canonical.normalize import normalize
from lsc_graph.canonical.origins import Origin, find_tensor, origin_of

TEXT = """
<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
g (float[2] x, bool flag) => (float[2] y)
<float[2] w = {1, 2}>
{
    c = Constant<value = float[2] {3, 4}>()
    a = Mul(x, w)
    b = Mul(a, c)
    h = If (flag) <
        then_branch = p () => (float[2] r) <float[2] w2 = {5, 6}> {
            q = Constant<value = float[2] {7, 8}>()
            s = Mul(b, w2)
            r = Mul(s, q)
        },
        else_branch = e () => (float[2] r2) { r2 = Neg(b) }
    >
    i = local.scale(h)
    y = local.scale(i)
}
<domain: "local", opset_import: ["" : 17]>
scale (u) => (v) { k = Constant<value = float[2] {9, 10}>()  v = Mul(u, k) }
"""


@pytest.fixture(name="proto")
def _proto() -> onnx.ModelProto:
    return onnx.parser.parse_model(TEXT)


def origins(proto: onnx.ModelProto) -> dict[str, Origin | None]:
    model = normalize(proto, {"x": (2,), "flag": ()}, {"flag": np.array(True)})
    floats = [v for v in model.graph.initializers.values() if v.dtype.is_floating_point()]
    return {str(value.name): origin_of(value) for value in floats}


def test_paths_lead_into_branches_and_functions(proto: onnx.ModelProto) -> None:
    found = origins(proto)
    assert found["w"] == ("w",)
    assert found["c"] == ("c",)
    assert set(found.values()) == {
        ("w",),
        ("c",),
        ("h", "then_branch", "w2"),
        ("h", "then_branch", "q"),
        ("function", "local::scale::", "k"),
    }


def test_every_origin_leads_to_the_tensor_with_the_same_values(proto: onnx.ModelProto) -> None:
    model = normalize(proto, {"x": (2,), "flag": ()}, {"flag": np.array(True)})
    for value in model.graph.initializers.values():
        origin = origin_of(value)
        assert origin is not None
        tensor = find_tensor(proto, origin)
        assert tensor is not None
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), value.const_value.numpy())


@pytest.mark.parametrize(
    "origin",
    [("nobody",), ("h", "then_branch", "nobody"), ("h", "no_branch", "w2"), ("function", "no::body::", "k")],
)
def test_an_origin_that_leads_nowhere_finds_nothing(proto: onnx.ModelProto, origin: Origin) -> None:
    assert find_tensor(proto, origin) is None
