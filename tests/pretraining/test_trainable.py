"""Which tensors are trained."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from pretraining_problems import prepared_model, reader_of

from lsc_graph.errors import UsageError
from lsc_graph.pretraining.trainable import Choice, choose


def chosen(model: str | onnx.ModelProto, **options: object) -> Choice:
    prepared = prepared_model(model, None if isinstance(model, onnx.ModelProto) else 8)
    return choose(prepared, reader_of(prepared).model.parameters, **options)


def net_with_settings() -> onnx.ModelProto:
    """Two dense layers, a layer norm written out with an epsilon, a table of positions, a tied weight."""
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.normal(size=(8, 8)),
        "v": rng.normal(size=(8, 8)),
        "epsilon": np.array([1e-5]),
        "positions": rng.normal(size=(4, 8)),
        "scale": rng.normal(size=8),
        "mean": rng.normal(size=8),
        "variance": rng.uniform(1, 2, size=8),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "positions"], ["b"]),
        helper.make_node("Tanh", ["b"], ["c"]),
        helper.make_node("Add", ["c", "epsilon"], ["d"]),
        helper.make_node("MatMul", ["d", "v"], ["e"]),
        helper.make_node("BatchNormalization", ["e", "scale", "scale", "mean", "variance"], ["f"]),
        helper.make_node("Tanh", ["f"], ["g"]),
        helper.make_node("MatMul", ["g", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "settings",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4, 8])],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_settings_are_not_weights() -> None:
    found = chosen(net_with_settings())
    assert sorted(weight.label for weight in found.weights) == ["scale", "v", "w"]
    assert set(found.left_out) == {"epsilon", "positions", "mean", "variance"}
    assert found.left_out["mean"] == found.left_out["variance"] == "running statistics"
    assert "positions" in found.left_out["positions"]


def test_a_tied_weight_is_one_weight() -> None:
    assert len([w for w in chosen(net_with_settings()).weights if w.label == "w"]) == 1


@pytest.mark.parametrize("name", ["gru", "scan_gru", "loop_gru", "unrolled_gru", "streaming_gru"])
def test_every_weight_of_a_recurrence_is_found_in_every_form(name: str) -> None:
    found = chosen(name)
    assert found.weights
    assert not [label for label in found.left_out if "weight" in label]
    assert {"weight_hh", "weight_ih"} <= {w.label.split(".")[-1] for w in found.weights}


def test_patterns_choose_and_freeze() -> None:
    labels = {w.label for w in chosen("gru").weights}
    only = {w.label for w in chosen("gru", train=["layer_0.*"]).weights}
    assert only == {label for label in labels if label.startswith("layer_0.")}
    rest = {w.label for w in chosen("gru", freeze=["layer_0.*"]).weights}
    assert rest == labels - only
    with pytest.raises(UsageError, match="fits no weight"):
        chosen("gru", freeze=["nothing"])


def test_what_is_not_trained_anyway_may_be_frozen_too_but_not_be_all_that_is_trained() -> None:
    assert chosen(net_with_settings(), freeze=["positions"]).weights
    with pytest.raises(UsageError, match="fits no weight"):
        chosen(net_with_settings(), train=["positions"])


def scan_from(first: np.ndarray) -> onnx.ModelProto:
    """h' = tanh(W h + x) over 5 steps, from a stored first state [1, 4]."""
    rng = np.random.default_rng(0)
    floats = onnx.TensorProto.FLOAT
    shaped = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h_in", "w"], ["wh"]),
            helper.make_node("Add", ["wh", "x_t"], ["a"]),
            helper.make_node("Tanh", ["a"], ["h_out"]),
            helper.make_node("Identity", ["h_out"], ["y_t"]),
        ],
        "step",
        [shaped("h_in", floats, [1, 4]), shaped("x_t", floats, [1, 4])],
        [shaped("h_out", floats, [1, 4]), shaped("y_t", floats, [1, 4])],
    )
    arrays = {"w": rng.normal(size=(4, 4)) / 2, "h_0": first}
    graph = helper.make_graph(
        [helper.make_node("Scan", ["h_0", "x"], ["h", "y"], body=body, num_scan_inputs=1)],
        "loop",
        [shaped("x", floats, [5, 1, 4])],
        [shaped("y", floats, [5, 1, 4])],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_first_state_of_zeros_is_no_weight_and_a_learned_one_is() -> None:
    zeros = chosen(scan_from(np.zeros((1, 4))))
    assert [weight.label for weight in zeros.weights] == ["w"]
    assert zeros.left_out["h_0"] == "an initial state of zeros"
    learned = chosen(scan_from(np.ones((1, 4)) * [0.1, -0.2, 0.3, 0.4]))
    assert {weight.label for weight in learned.weights} == {"w", "h_0"}
