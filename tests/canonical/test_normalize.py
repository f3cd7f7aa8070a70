"""Normalised models compute the same, with static shapes and without branches that the inputs decide."""

from __future__ import annotations

import contextlib
import time

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import real_models
from hypothesis import given, settings
from hypothesis import strategies as st
from lsc_graph.models import registry

from lsc_graph.canonical.normalize import normalize, upgrade_opset
from lsc_graph.canonical.shapes import static_shape
from lsc_graph.errors import LscGraphError, UsageError
from lsc_graph.model_file.load import load
from lsc_graph.running.reference import Reference

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
DAMAGED = onnx.parser.parse_model(NESTED).SerializeToString()


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


OPEN_BRANCH = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[3] x) => (float[3] y)
{
    total = ReduceSum<keepdims = 0>(x)
    zero = Constant<value = float {0.0}>()
    positive = Greater(total, zero)
    y = If (positive) <
        then_branch = a () => (float[3] u) { u = Tanh(x) },
        else_branch = b () => (float[3] v) { v = THEN_OTHER }
    >
}
"""


def test_a_branch_that_data_decide_becomes_a_selection() -> None:
    proto = onnx.parser.parse_model(OPEN_BRANCH.replace("THEN_OTHER", "Neg(x)"))
    model = normalize(proto, {"x": (3,)}, {})
    kinds = [node.op_type for node in model.graph]
    assert "If" not in kinds
    assert "Where" in kinds
    ours, theirs = Reference(ir.to_proto(model)), Reference(proto)
    for sign in (1, -1):
        x = sign * np.array([0.5, 1.5, -0.25], dtype=np.float32)
        np.testing.assert_array_equal(ours.run({"x": x})["y"], theirs.run({"x": x})["y"])


def test_a_branch_that_data_decide_stays_where_the_other_has_another_shape() -> None:
    text = OPEN_BRANCH.replace("THEN_OTHER", "ReduceMax<keepdims = 1>(x)").replace("float[3] v", "float[1] v")
    text = text.replace("=> (float[3] y)", "=> (float[k] y)")
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


HEADER = '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>\n'
Shapes = dict[str, tuple[int, ...]]


def agrees(text: str, shapes: Shapes, constants: dict[str, np.ndarray] | None = None) -> ir.Model:
    """The normalised model, after it has computed the same as the original in ONNX Runtime."""
    proto, constants = onnx.parser.parse_model(HEADER + text), constants or {}
    onnx.checker.check_model(proto)
    model = normalize(proto, shapes, constants)
    serialized = ir.to_proto(model)
    onnx.checker.check_model(serialized)
    generator = np.random.default_rng(0)
    feed = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    ours, theirs = Reference(serialized).run(feed), Reference(proto).run(feed | constants)
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, strict=True)
    return model


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph.all_nodes()]


def test_outputs_that_inputs_decide_keep_their_names() -> None:
    model = agrees(
        """g (float[N, M] x) => (int64[2] size, float one, float[N, M] y)
        <float w = {2}> {
            size = Shape(x)
            one = Constant<value = float {1.0}>()
            y = Mul(x, w)
        }""",
        {"x": (3, 4)},
    )
    assert sorted(operators(model)) == ["Identity", "Identity", "Mul"]


def test_sizes_may_take_a_detour_through_floats() -> None:
    model = agrees(
        """g (float[N, C, H, W] x) => (float[A, B, D, E] y)
        <float[2] half = {0.5, 0.5}, int64[1] two = {2}, int64[1] four = {4}, int64[1] zero = {0}> {
            size = Shape(x)
            space = Slice(size, two, four)
            wide = Cast<to = 1>(space)
            smaller = Mul(wide, half)
            whole = Floor(smaller)
            target = Cast<to = 7>(whole)
            lead = Slice(size, zero, two)
            sizes = Concat<axis = 0>(lead, target)
            y = Resize<mode = "nearest">(x, , , sizes)
        }""",
        {"x": (1, 2, 7, 9)},
    )
    assert operators(model) == ["Resize"]
    assert static_shape(model.graph.outputs[0]) == (1, 2, 3, 4)


def test_computed_scales_give_a_resize_a_static_shape() -> None:
    model = agrees(
        """g (float[N, C, H] x, float[K] like) => (float[A, B, D] y)
        <int64[1] two = {2}, int64[1] three = {3}, float[2] ones = {1, 1}> {
            size = Shape(x)
            length = Slice(size, two, three)
            have = Cast<to = 1>(length)
            wanted = Shape(like)
            want = Cast<to = 1>(wanted)
            ratio = Div(want, have)
            scales = Concat<axis = 0>(ones, ratio)
            y = Resize<mode = "nearest">(x, , scales)
        }""",
        {"x": (1, 2, 4), "like": (8,)},
    )
    assert operators(model) == ["Resize"]
    assert static_shape(model.graph.outputs[0]) == (1, 2, 8)


def test_a_chain_of_sizes_is_followed_in_one_sweep() -> None:
    """The expand that torch writes, each shape depending on the one before: many, so that rounds are few."""
    steps = "\n".join(
        f"""s{i} = Shape(y{i})
            ones{i} = ConstantOfShape<value = int64[1] {{1}}>(rank)
            minus{i} = Mul(ones{i}, minus)
            is_open{i} = Equal(s{i}, minus{i})
            t{i} = Where(is_open{i}, ones{i}, s{i})
            e{i} = Expand(y{i}, t{i})
            n{i} = NonZero(s{i})
            f{i} = Reshape(e{i}, minus_one)
            y{i + 1} = Reshape(f{i}, t{i})"""
        for i in range(80)
    )
    model = agrees(
        f"""g (float[N, M] y0) => (float[A, B] out)
        <int64[1] rank = {{2}}, int64 minus = {{-1}}, int64[1] minus_one = {{-1}}> {{
            {steps}
            out = Neg(y80)
        }}""",
        {"y0": (2, 3)},
    )
    assert set(operators(model)) == {"Expand", "Reshape", "Neg"}
    assert all(static_shape(value) is not None for node in model.graph for value in node.outputs)


def test_a_branch_inside_the_body_of_a_loop_is_taken_too() -> None:
    model = agrees(
        """g (float[N] x, int64 mode) => (float[M] y)
        <int64 count = {3}, bool go = {1}, int64 five = {5}> {
            is_big = Greater(mode, five)
            y = Loop (count, go, x) <body = b (int64 i, bool c, float[K] s) => (bool d, float[L] t) {
                d = Identity(c)
                t = If (is_big) <
                    then_branch = p () => (float[P] u) { u = Tanh(s) },
                    else_branch = q () => (float[Q] v) { v = Neg(s) }
                >
            }>
        }""",
        {"x": (4,)},
        {"mode": np.array(9)},
    )
    assert "If" not in operators(model)
    assert "Tanh" in operators(model)


def test_names_that_branches_share_are_kept_apart() -> None:
    """Sibling branches may use one name for different values, and may hold weights of the same name."""
    model = agrees(
        """g (float[2] x, bool a, bool b) => (float[2] y, float[2] z) {
            y = If (a) <
                then_branch = p () => (float[2] r) <float[2] w = {1, 2}> { h = Mul(x, w)  r = Neg(h) },
                else_branch = q () => (float[2] r2) <float[2] w = {3, 4}> { h = Mul(x, w)  r2 = Abs(h) }
            >
            z = If (b) <
                then_branch = s () => (float[2] r) <float[2] w = {5, 6}> { h = Mul(x, w)  r = Neg(h) },
                else_branch = t () => (float[2] r2) <float[2] w = {7, 8}> { h = Mul(x, w)  r2 = Abs(h) }
            >
        }""",
        {"x": (2,)},
        {"a": np.array(True), "b": np.array(False)},
    )
    assert len(model.graph.initializers) == 2


def test_branches_that_return_constants_are_taken() -> None:
    agrees(
        """g (float[2] x, bool a) => (float[2] y, float[2] z) {
            y = If (a) <
                then_branch = p () => (float[2] r) { r = Constant<value = float[2] {1, 2}>() },
                else_branch = q () => (float[2] r) <float[2] r = {3, 4}> { }
            >
            z = Add(x, y)
        }""",
        {"x": (2,)},
        {"a": np.array(False)},
    )


def test_tied_weights_stay_one_initializer() -> None:
    model = agrees(
        """g (float[2, 2] x) => (float[2, 2] y) <float[2, 2] w = {1, 2, 3, 4}> {
            same = Identity(w)
            once = MatMul(x, w)
            y = MatMul(once, same)
        }""",
        {"x": (2, 2)},
    )
    assert list(model.graph.initializers) == ["w"]
    assert operators(model) == ["MatMul", "MatMul"]


def test_two_outputs_of_one_value_keep_both_names() -> None:
    agrees(
        "g (float[2] x) => (float[2] y, float[2] z, float[2] u)"
        " { y = Neg(x)  z = Identity(y)  u = Identity(x) }",
        {"x": (2,)},
    )


def test_random_values_are_never_decided() -> None:
    proto = onnx.parser.parse_model(
        HEADER
        + """g (float[2] x) => (float[2] y) <int64[1] two = {2}> {
            r = RandomUniform<shape = [2]>()
            half = Constant<value = float {0.5}>()
            up = Greater(r, half)
            f = Cast<to = 1>(up)
            y = Add(x, f)
        }"""
    )
    assert "RandomUniform" in operators(normalize(proto, {"x": (2,)}, {}))


def test_huge_constants_are_never_made() -> None:
    proto = onnx.parser.parse_model(
        HEADER
        + """g (float[2] x) => (int64[A, B, C] y, int64[D] z, float[2] u)
        <int64[3] size = {1000000, 1000000, 1000}, int64 zero = {0}, int64 limit = {100000000000000},
         int64 one = {1}> {
            y = ConstantOfShape<value = int64[1] {1}>(size)
            z = Range(zero, limit, one)
            u = Neg(x)
        }"""
    )
    kinds = operators(normalize(proto, {"x": (2,)}, {}))
    assert "ConstantOfShape" in kinds
    assert "Range" in kinds


def test_a_wide_broadcast_is_never_computed() -> None:
    values = ", ".join(["1"] * 4000)
    proto = onnx.parser.parse_model(
        HEADER
        + f"""g (float[2] x) => (int64[A, B, C] y) <
            int64[4000, 1, 1] a = {{{values}}}, int64[1, 4000, 1] b = {{{values}}},
            int64[1, 1, 4000] c = {{{values}}}
        > {{ y = Max(a, b, c) }}"""
    )
    assert "Max" in operators(normalize(proto, {"x": (2,)}, {}))


def test_stale_shapes_in_the_file_do_not_stand_in_the_way() -> None:
    proto = registry.build("feed_forward_relu", num_layers=2)
    for value in (*proto.graph.output, *proto.graph.value_info):
        del value.type.tensor_type.shape.dim[:]
        value.type.tensor_type.shape.dim.add().dim_value = 77
        value.type.tensor_type.shape.dim.add().dim_param = "stale"
    (name,) = (value.name for value in proto.graph.input)
    width = proto.graph.input[0].type.tensor_type.shape.dim[-1].dim_value
    model = normalize(proto, {name: (5, width)}, {})
    assert (static_shape(model.graph.outputs[0]) or ())[0] == 5


def test_what_the_request_gets_wrong_is_said() -> None:
    proto = onnx.parser.parse_model(NESTED)
    with pytest.raises(UsageError, match="no such input"):
        normalize(proto, {"x": (2, 3), "nobody": ()}, {"mode": np.array(1)})
    with pytest.raises(UsageError, match="no shape: x"):
        normalize(proto, {}, {"mode": np.array(1)})


def test_an_input_with_a_default_may_be_fixed() -> None:
    text = "g (float[2] x, float w = {2}) => (float[2] y) { y = Mul(x, w) }"
    model = normalize(onnx.parser.parse_model(HEADER + text), {"x": (2,)}, {"w": np.array(3)})
    assert [value.name for value in model.graph.inputs] == ["x"]
    x = np.array([1, 2], dtype=np.float32)
    np.testing.assert_array_equal(Reference(ir.to_proto(model)).run({"x": x})["y"], 3 * x)


def test_old_recurrent_models_compute_the_same_after_the_upgrade() -> None:
    weights = np.random.default_rng(0).standard_normal((1, 12, 3)).astype(np.float32)
    initializers = [
        onnx.numpy_helper.from_array(weights, "W"),
        onnx.numpy_helper.from_array(weights, "R"),
    ]
    make = onnx.helper.make_tensor_value_info
    nodes = [
        onnx.helper.make_node("LSTM", ["x", "W", "R"], ["y"], hidden_size=3),
        onnx.helper.make_node("Squeeze", ["y"], ["z"], axes=[1]),
    ]
    graph = onnx.helper.make_graph(
        nodes, "old", [make("x", 1, ["T", 1, 3])], [make("z", 1, ["T", 1, 3])], initializers
    )
    old = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 9)], ir_version=6)
    new = upgrade_opset(old)
    assert new.opset_import[0].version == 17
    x = np.random.default_rng(1).standard_normal((5, 1, 3)).astype(np.float32)
    ours = Reference(ir.to_proto(normalize(new, {"x": (5, 1, 3)}, {}))).run({"x": x})
    np.testing.assert_array_equal(ours["z"], Reference(old).run({"x": x})["z"])


def test_ten_thousand_nodes_take_seconds() -> None:
    count = 10_000
    make = onnx.helper.make_tensor_value_info
    nodes = [onnx.helper.make_node("Tanh", [f"v{i}"], [f"v{i + 1}"]) for i in range(count)]
    graph = onnx.helper.make_graph(nodes, "long", [make("v0", 1, ["N"])], [make(f"v{count}", 1, ["N"])])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    start = time.perf_counter()
    model = normalize(proto, {"v0": (4,)}, {})
    assert time.perf_counter() - start < 20
    assert len(model.graph) == count


@settings(max_examples=100, deadline=None)
@given(position=st.integers(0, len(DAMAGED) - 1), value=st.integers(0, 255))
def test_a_damaged_model_is_normalised_or_refused_by_name(position: int, value: int) -> None:
    damaged = DAMAGED[:position] + bytes([value]) + DAMAGED[position + 1 :]
    with contextlib.suppress(LscGraphError):
        proto = load(damaged).proto
        shapes = {v.name: (2, 3) if v.name == "x" else () for v in proto.graph.input}
        normalize(upgrade_opset(proto), shapes, {"mode": np.array(9)})
