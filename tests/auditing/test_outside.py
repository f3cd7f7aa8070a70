"""What belongs to no layer of a recurrent model is named."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from lsc_graph.models import registry
from onnx import TensorProto, helper, numpy_helper

from lsc_graph.auditing.outside import parts_outside
from lsc_graph.planning import Request
from lsc_graph.prepare import prepare

SIZE, STEPS = 4, 5


def around_an_rnn(num_before: int, num_behind: int, num_beside: int = 0) -> onnx.ModelProto:
    """Linear layers before, behind and beside an RNN."""
    draw = np.random.default_rng(0).standard_normal
    nodes: list[onnx.NodeProto] = []
    weights = {"W": (1, SIZE, SIZE), "R": (1, SIZE, SIZE)}

    def linear(value: str, name: str, count: int) -> str:
        for k in range(count):
            weights[f"{name}{k}"] = (SIZE, SIZE)
            nodes.append(helper.make_node("MatMul", [value, f"{name}{k}"], [f"{name}{k}_y"], f"{name}{k}_op"))
            value = f"{name}{k}_y"
        return value

    drive = linear("x", "before", num_before)
    nodes.append(helper.make_node("RNN", [drive, "W", "R"], ["y4"], "rnn", hidden_size=SIZE))
    outputs = [linear("y4", "behind", num_behind), *([linear("x", "beside", num_beside)] * bool(num_beside))]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [STEPS, 1, SIZE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(draw(s).astype(np.float32), name) for name, s in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def parts(model: onnx.ModelProto, num_steps: int | None = None) -> tuple[str, ...]:
    return parts_outside(prepare(model, Request(num_steps, {}, {}, (), {})))


def test_operators_before_behind_and_beside_the_layers_are_named() -> None:
    before, behind, beside = parts(around_an_rnn(4, 3, 2))
    assert before.startswith("4 operators with weights stand before the first layer (MatMul before0_op")
    assert behind.startswith("3 operators with weights stand behind the last layer (MatMul behind0_op")
    assert beside.startswith("2 operators with weights stand beside the layers (MatMul beside0_op")


def test_a_single_embedding_and_a_single_head_go_without_saying() -> None:
    assert parts(around_an_rnn(1, 1)) == ()


STATE_SPACES = {"lru": 3, "selective_ssm": 7}


@pytest.mark.parametrize("name", STATE_SPACES)
def test_the_encoder_and_the_projections_of_state_space_layers_are_named(name: str) -> None:
    before, _ = parts(registry.build(name), 4)
    expected = f"{STATE_SPACES[name]} operators with weights stand before the first layer (Gemm encoder"
    assert before.startswith(expected)


PLAIN = [name for name in registry.names() if registry.card(name).forms and name not in STATE_SPACES]


@pytest.mark.parametrize("name", PLAIN)
def test_nothing_stands_outside_of_reference_models_but_their_heads(name: str) -> None:
    assert parts(registry.build(name), 4 if name != "unrolled_gru" else None) == ()
