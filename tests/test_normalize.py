"""Normalised models compute the same, with static shapes and without branches that the inputs decide."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import real_models
from lsc_graph.models import registry

from lsc_graph.normalize import normalize, upgrade_opset
from lsc_graph.reference import Reference
from lsc_graph.shapes import static_shape

NESTED = """
<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
g (float[N, M] x, int64 mode) => (float[A, B] y, float[C] z)
<float[4] w = {1, 2, 3, 4}>
{
    limit = Constant<value = int64 {5}>()
    is_big = Greater(mode, limit)
    y = If (is_big) <
        then_branch = big () => (float[K, L] t) {
            size = Shape(x)
            first = Constant<value = int64[1] {0}>()
            rows = Gather(size, first)
            two = Constant<value = int64[1] {2}>()
            wide = Equal(rows, two)
            flag = Squeeze(wide)
            t = If (flag) <
                then_branch = a () => (float[P, Q] u) { u = Tanh(x) },
                else_branch = b () => (float[R, S] v) { v = Neg(x) }
            >
        },
        else_branch = small () => (float[T, U] e) { e = local.twice(x) }
    >
    one = Constant<value = int64[1] {1}>()
    minus = Constant<value = int64[1] {-1}>()
    shape = Shape(x)
    columns = Slice(shape, one, one)
    doubled = Mul(w, w)
    z = Reshape(doubled, minus)
}
<domain: "local", opset_import: ["" : 17]>
twice (a) => (b) { b = Add(a, a) }
"""


@pytest.mark.parametrize(("mode", "rows", "operator"), [(9, 2, "Tanh"), (9, 3, "Neg"), (1, 2, "Add")])
def test_the_taken_branch_is_inlined_and_computes_the_same(mode: int, rows: int, operator: str) -> None:
    proto = onnx.parser.parse_model(NESTED)
    before = proto.SerializeToString()
    constants = {"mode": np.array(mode)}
    model = normalize(proto, {"x": (rows, 3), "mode": ()}, constants)
    assert proto.SerializeToString() == before
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    kinds = [node.op_type for node in model.graph]
    assert "If" not in kinds
    assert operator in kinds
    x = np.random.default_rng(0).standard_normal((rows, 3)).astype(np.float32)
    ours = Reference(ir.to_proto(model)).run({"x": x})
    theirs = Reference(proto).run({"x": x} | constants)
    for name in ("y", "z"):
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_computations_on_weights_are_never_folded() -> None:
    model = normalize(onnx.parser.parse_model(NESTED), {"x": (2, 3), "mode": ()}, {"mode": np.array(9)})
    assert "w" in model.graph.initializers
    assert any(node.op_type == "Mul" for node in model.graph)


def test_an_undecided_branch_stays() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[3] x) => (float[3] y)
    {
        total = ReduceSum<keepdims = 0>(x)
        zero = Constant<value = float {0.0}>()
        positive = Greater(total, zero)
        y = If (positive) <
            then_branch = a () => (float[3] u) { u = Tanh(x) },
            else_branch = b () => (float[3] v) { v = Neg(x) }
        >
    }
    """
    model = normalize(onnx.parser.parse_model(text), {"x": (3,)}, {})
    assert [node.op_type for node in model.graph].count("If") == 1


@pytest.mark.parametrize("name", [n for n in registry.names() if n != "unrolled_gru"])
def test_reference_models_compute_the_same_and_have_static_shapes(name: str) -> None:
    proto = registry.build(name)
    sizes = {"time": 5, "batch": 2}
    shapes = {
        value.name: tuple(
            dim.dim_value or sizes.get(dim.dim_param, 1) for dim in value.type.tensor_type.shape.dim
        )
        for value in proto.graph.input
    }
    model = normalize(proto, shapes, {})
    generator = np.random.default_rng(0)
    feed = {key: generator.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    ours, theirs = Reference(ir.to_proto(model)).run(feed), Reference(proto).run(feed)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        np.testing.assert_allclose(ours[key], value, rtol=1e-5, atol=1e-6)
    if name != "loop_gru":  # what a Loop writes has no length that inference could see
        assert all(static_shape(value) is not None for value in model.graph.outputs)


def test_old_recurrent_models_are_upgraded_and_others_left_alone() -> None:
    model = registry.build("feed_forward_relu", num_layers=2)
    model.opset_import[0].version = 11
    assert upgrade_opset(model) is model
    case = registry.build("tanh_rnn")
    assert upgrade_opset(case) is case


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "size"), [(16000, 576), (8000, 288)])
def test_a_real_model_with_three_levels_of_if_has_none_left(rate: int, size: int) -> None:
    proto = onnx.load(real_models.real_model("silero_vad.onnx"))
    shapes = {"input": (1, size), "state": (2, 1, 128), "sr": ()}
    model = normalize(proto, shapes, {"sr": np.array(rate)})
    kinds = {node.op_type for node in model.graph.all_nodes()}
    assert "If" not in kinds
    assert "LSTM" in kinds
