"""Which tensors are trained."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from pretraining_problems import prepared_model, reader_of

from lsc_graph.errors import UsageError
from lsc_graph.pretraining.trainable import Choice, choose
from lsc_graph.to_torch.bases import is_basis


def chosen(model: str | onnx.ModelProto, **options: object) -> Choice:
    prepared = prepared_model(model, None if isinstance(model, onnx.ModelProto) else 8)
    return choose(prepared, reader_of(prepared).model.parameters, **options)  # type: ignore[arg-type]


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


def test_windowed_fourier_bases_are_recognised_and_random_matrices_are_not() -> None:
    n = np.arange(64)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(33), n) / 64) * np.hanning(65)[:64]
    assert is_basis(np.concatenate([waves.real, waves.imag]).astype(np.float32)[:, None])
    assert not is_basis(np.random.default_rng(0).normal(size=(66, 64)))
