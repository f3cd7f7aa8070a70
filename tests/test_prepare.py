"""Shapes are found for models that declare dimensions as open although their graph has a fixed length."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lsc_graph.errors import AnalysisError, InputError, UsageError
from lsc_graph.planning import Request
from lsc_graph.prepare import prepare

D, H = 3, 4


def request(num_steps: int | None = None) -> Request:
    return Request(num_steps, {}, {}, (), {})


def gru_of_fixed_length(length: int, time: str = "s31") -> onnx.ModelProto:
    """A GRU over x [time,batch,D] that is cut to `length` steps behind it."""
    draw = np.random.default_rng(0).standard_normal
    weights = {"w": (1, 3 * H, D), "r": (1, 3 * H, H)}
    constants = {name: draw(shape).astype(np.float32) for name, shape in weights.items()}
    shape = np.array([length, 1, H], dtype=np.int64)
    graph = helper.make_graph(
        [
            helper.make_node("GRU", ["x", "w", "r"], ["y4"], name="gru", hidden_size=H),
            helper.make_node("Reshape", ["y4", "shape"], ["y"], name="cut"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [time, "s81", D])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [length, 1, H])],
        [numpy_helper.from_array(value, name) for name, value in (constants | {"shape": shape}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("length", [5, 12, 100])
def test_a_length_that_is_fixed_in_the_graph_is_found(length: int) -> None:
    prepared = prepare(gru_of_fixed_length(length), request())
    assert prepared.plan.shapes == {"x": (length, 1, D)}
    assert prepared.cell_graph.num_steps == length


def test_what_looks_like_a_batch_may_be_time() -> None:
    """Steps written out over an input whose first dimension has a meaningless name."""
    steps = 7
    draw = np.random.default_rng(0).standard_normal
    nodes, h = [], "h0"
    for time in range(steps):
        nodes += [
            helper.make_node("Gather", ["x", f"t{time}"], [f"x{time}"], axis=0),
            helper.make_node("MatMul", [f"x{time}", "w"], [f"d{time}"]),
            helper.make_node("MatMul", [h, "u"], [f"b{time}"]),
            helper.make_node("Add", [f"d{time}", f"b{time}"], [f"s{time}"]),
            helper.make_node("Tanh", [f"s{time}"], [f"h{time + 1}"]),
        ]
        h = f"h{time + 1}"
    constants = {f"t{time}": np.array(time) for time in range(steps)}
    constants |= {name: draw(shape).astype(np.float32) for name, shape in {"w": (D, H), "u": (H, H)}.items()}
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["s31", "s81", D]),
            helper.make_tensor_value_info("h0", TensorProto.FLOAT, ["s81", H]),
        ],
        [helper.make_tensor_value_info(h, TensorProto.FLOAT, ["s81", H])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    prepared = prepare(model, request())
    assert prepared.plan.shapes["x"] == (steps, 1, D)
    assert [site.num_steps for site in prepared.findings.sites] == [steps]


def test_given_data_of_a_length_that_the_graph_does_not_take_are_named() -> None:
    data = {"x": np.zeros((1, 9, 1, D), np.float32)}
    with pytest.raises(InputError, match="given shapes") as caught:
        prepare(gru_of_fixed_length(5), Request(None, {}, {}, (), data))
    assert caught.value.where == "x [9, 1, 3]"
    assert caught.value.got is not None
    assert "Reshape" in caught.value.got


@pytest.mark.parametrize("data", [{}, {"x": np.zeros((1, 5, 1, D), np.float32)}])
def test_a_file_that_is_wrong_in_itself_is_told_apart_from_shapes_that_do_not_fit(
    data: dict[str, np.ndarray],
) -> None:
    proto = gru_of_fixed_length(5)
    proto.graph.node.append(helper.make_node("MatMul", ["w", "r"], ["z"]))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    with pytest.raises(AnalysisError, match="does not load") as caught:
        prepare(proto, Request(None, {}, {}, (), data))
    assert caught.value.do is not None


def test_a_number_that_decides_what_the_graph_does_is_the_same_in_all_samples() -> None:
    proto = gru_of_fixed_length(5)
    proto.graph.input.append(helper.make_tensor_value_info("chosen", TensorProto.INT64, [1]))
    proto.graph.node.append(helper.make_node("Gather", ["y", "chosen"], ["z"], axis=0))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 1, H]))
    same, other = np.array([[2], [2]]), np.array([[2], [4]])
    assert prepare(proto, Request(None, {}, {}, (), {"chosen": same})).plan.constants["chosen"] == [2]
    with pytest.raises(UsageError, match="cannot change") as caught:
        prepare(proto, Request(None, {}, {}, (), {"chosen": other}))
    assert caught.value.where == "chosen"
    assert caught.value.got == "2 values, from 2 to 4"


def with_weights(text: str, weights: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> m {text}')
    draw = np.random.default_rng(0).standard_normal
    for name, shape in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(draw(shape).astype(np.float32), name))
    return proto


TOKENS = """(int64[1] x, float[1, 4] h) => (float[1, 4] h_out) {{
    {picked} c = MatMul(e, w) d = MatMul(h, u) a = Add(c, d) h_out = Tanh(a) }}"""
PICKED = "e = Gather(table, x)"
SIZES = {"table": (9, 4), "w": (4, 4), "u": (4, 4)}


def test_a_single_token_is_no_number_that_decides_what_the_graph_does() -> None:
    model = with_weights(TOKENS.format(picked=PICKED), SIZES)
    tokens = np.array([[3], [5], [3], [7]])
    prepared = prepare(model, Request(4, {}, {}, (), {"x": tokens}))
    assert "x" not in prepared.plan.constants
    assert not prepare(model, request(4)).plan.constants
    assert prepare(model, Request(4, {"x": "3"}, {}, (), {})).plan.constants == {"x": [3]}


def test_a_single_number_that_is_computed_with_is_no_token() -> None:
    counted = f"{PICKED.replace('e =', 'f =')} g = Cast<to = 1>(x) e = Mul(f, g)"
    prepared = prepare(with_weights(TOKENS.format(picked=counted), SIZES), request(4))
    assert list(prepared.plan.constants) == ["x"]


def test_the_sides_of_an_image_are_not_tried_as_long_as_the_flattened_image() -> None:
    """A square of 640,000 pixels by 640,000 fits no memory."""
    proto = with_weights(
        """(float[n,1,height,width] x) => (float[n,2] y) {
            c = Conv(x, k) f = Flatten(c) y = Gemm(f, w) }""",
        {"k": (64, 1, 1, 1), "w": (64 * 100 * 100, 2)},
    )
    assert prepare(proto, request()).plan.shapes == {"x": (1, 1, 100, 100)}


def test_many_features_that_only_the_weights_tell_are_found() -> None:
    proto = with_weights(
        "(float[n,features,rest] x) => (float[n,a] y) { f = Flatten(x) y = MatMul(f, w) }", {"w": (5001, 2)}
    )
    assert sorted(prepare(proto, request()).plan.shapes["x"]) == [1, 1, 5001]


def summed_inputs_into_gru(names: tuple[tuple[str, str], ...]) -> onnx.ModelProto:
    """A GRU over x0 + x1, each [time, batch, D], whose dimensions no name says to be the same."""
    draw = np.random.default_rng(0).standard_normal
    constants = {"w": draw((1, 3 * H, D)).astype(np.float32), "r": draw((1, 3 * H, H)).astype(np.float32)}
    graph = helper.make_graph(
        [
            helper.make_node("Concat", ["x0", "x1"], ["both"], name="concat", axis=2),
            helper.make_node("Slice", ["both", "from", "to", "axes"], ["x"], name="slice"),
            helper.make_node("GRU", ["x", "w", "r"], ["y"], name="gru", hidden_size=H),
        ],
        "g",
        [
            helper.make_tensor_value_info(f"x{k}", TensorProto.FLOAT, [time, batch, D])
            for k, (time, batch) in enumerate(names)
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(value, name)
            for name, value in (
                constants | {"from": np.array([1]), "to": np.array([1 + D]), "axes": np.array([2])}
            ).items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(
    "names",
    [(("unk__1", "unk__2"), ("unk__3", "unk__4")), (("t0", "b0"), ("t1", "b1")), (("t", "b"), ("t", "b"))],
)
def test_inputs_that_are_joined_have_the_same_length_and_batch(names: tuple[tuple[str, str], ...]) -> None:
    prepared = prepare(summed_inputs_into_gru(names), request(9))
    assert prepared.plan.shapes == {"x0": (9, 1, D), "x1": (9, 1, D)}
    assert prepared.cell_graph.num_steps == 9
