"""Pre-training reaches its targets, whatever the architecture and the form, shown by independent means."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from lsc_graph.models.registry import build

from lsc_graph.audit_model import audit
from lsc_graph.errors import AnalysisError, UsageError
from lsc_graph.pretraining.pretrain_model import Pretrained, pretrain
from lsc_graph.writeback.tensors import values_of
from lsc_graph.writeback.weights import with_values

RECURRENT = ["tanh_rnn", "relu_rnn", "gru", "lstm", "alif_smooth", "bidirectional_lstm"]


def assert_reached(model: onnx.ModelProto, found: Pretrained, num_steps: int | None) -> None:
    """An audit of the model with the new values shows the targets."""
    assert found.report.is_reached, [c for c in found.report.radii if not c.is_reached]
    analysis = audit(with_values(model, found.values), num_steps=num_steps, num_samples=8, seed=77)
    layers = {layer.id: layer for layer in analysis.layers}
    for change in found.report.radii:
        layer = layers[change.layer]
        edges = {edge.source: edge.radius for edge in layer.depth_edges}
        radius = layer.time_radius if change.kind == "time" else edges[change.source]
        assert radius is not None
        # Steps of one sample depend on each other: the means of 8 samples are noisier than their points say.
        assert abs(radius.mean - change.target) <= 0.02 + 4 * (radius.std_error + change.after.std_error)


@pytest.mark.parametrize("name", RECURRENT)
def test_half_is_reached_in_time_and_depth(name: str) -> None:
    model = build(name)
    found = pretrain(model, target="half", num_steps=12)
    kinds = {change.kind for change in found.report.radii}
    assert kinds == {"time", "depth"}
    assert_reached(model, found, 12)


def test_edges_of_different_height_into_one_layer_do_not_share_a_range() -> None:
    """The three states of each unit in time are low-rank, but spikes alone lead on in depth."""
    found = pretrain(build("alif_smooth", hidden_size=64), target="one", num_steps=16, max_iterations=2)
    assert {change.kind for change in found.report.radii} == {"time", "depth"}


@pytest.mark.parametrize("activation", ["sin", "relu", "cos"])
def test_one_is_the_default_of_feed_forward_models(activation: str) -> None:
    model = build(f"feed_forward_{activation}", num_layers=4, hidden_size=64)
    found = pretrain(model)
    assert {change.target for change in found.report.radii} == {1.0}
    assert_reached(model, found, None)


def test_all_forms_of_one_network_are_trained_alike() -> None:
    """The same network, so the same few unknowns: fused, scan, loop and streaming agree to rounding."""
    radii = []
    for name in ("gru", "scan_gru", "loop_gru", "streaming_gru"):
        found = pretrain(build(name), num_steps=12)
        assert found.report.is_reached
        radii.append(sorted((c.kind, round(c.after.mean, 2)) for c in found.report.radii))
    assert all(own == radii[0] for own in radii)


def test_the_radius_of_a_linear_network_is_that_of_its_matrix() -> None:
    model = build("linear_orthogonal_rnn")
    found = pretrain(model, target_time=0.7, target_depth=0.4)
    initial = {tensor.name: values_of(tensor) for tensor in model.graph.initializer}
    square = [
        np.abs(np.linalg.eigvals(found.named.get(name, value).reshape(value.shape[-2:]))).max()
        for name, value in initial.items()
        if value.ndim >= 2 and value.shape[-1] == value.shape[-2] and value.size > 1
    ]
    assert found.report.is_reached
    assert any(abs(radius - 0.7) < 0.02 for radius in square)
    assert any(abs(radius - 0.4) < 0.02 for radius in square)


def test_the_eigenvalues_of_a_linear_recurrent_unit_are_found_and_moved() -> None:
    model = build("lru")
    found = pretrain(model, num_steps=12, target_time=0.6)
    for layer in ("layer_0", "layer_1"):
        modulus = np.exp(-np.exp(found.named[f"{layer}.nu_log"].astype(np.float64)))
        assert abs(modulus.max() - 0.6) < 0.02


def test_targets_of_single_layers() -> None:
    model = build("gru", num_layers=3)
    found = pretrain(model, num_steps=8, overrides=[("layer_1", "time", 0.7)])
    targets = {(c.layer, c.kind): c.target for c in found.report.radii}
    assert targets.pop(("layer_1", "time")) == 0.7
    assert set(targets.values()) == {0.5}
    assert_reached(model, found, 8)


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (build("feed_forward_sin", num_layers=3, hidden_size=16), "time"),
        (build("tanh_rnn", num_layers=1, hidden_size=16), "depth"),
    ],
)
def test_a_target_for_radii_that_a_model_has_not_is_named(model: onnx.ModelProto, kind: str) -> None:
    asked = {"target_time": 0.5, "target_depth": 0.5}
    (warning,) = pretrain(
        model, max_iterations=0, num_steps=None if kind == "time" else 8, **asked
    ).report.warnings
    assert warning == f"A target of 0.5 in {kind} changes nothing: the model has no radius in {kind}"


def test_radii_that_nothing_can_move_are_named_and_their_weights_left_alone() -> None:
    model = build("residual_mlp")
    before = {t.name: values_of(t) for t in model.graph.initializer}
    found = pretrain(model, target="half")
    assert not found.report.is_reached
    assert all("no trained weight moves it on from" in str(c.reason) for c in found.report.radii)
    for name, value in found.named.items():
        np.testing.assert_array_equal(value, before[name])


def test_a_gradient_that_is_cut_is_named() -> None:
    report = pretrain(build("alif"), num_steps=12).report
    (missed,) = (change for change in report.radii if not change.is_reached)
    assert missed.kind == "depth"
    assert "gradient is cut" in str(missed.reason)


@pytest.mark.slow
def test_spiking_layers_come_near_their_targets_with_a_surrogate() -> None:
    model = build("alif")
    report = pretrain(model, num_steps=8, surrogate="fast-sigmoid", tolerance=0.05).report
    assert report.surrogate is not None
    assert report.surrogate.nodes
    assert report.is_reached, [c for c in report.radii if not c.is_reached]


def test_the_same_seed_gives_the_same_weights() -> None:
    one, again, other = (pretrain(build("gru"), num_steps=8, seed=seed).named for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert any(not np.array_equal(one[name], other[name]) for name in one)


def test_only_what_is_to_be_trained_changes() -> None:
    found = pretrain(build("gru"), num_steps=8, freeze=["layer_0.*"])
    assert {name.split(".")[0] for name in found.named} == {"layer_1"}
    reasons = {left.tensor: left.reason for left in found.report.left_out}
    assert reasons["layer_0.weight_hh"] == "frozen"
    frozen = next(c for c in found.report.radii if (c.layer, c.kind) == ("layer_0", "time"))
    assert str(frozen.reason).startswith("no trained weight moves it; with the weights found it is 0.")


def test_values_have_the_type_of_their_tensors() -> None:
    model = build("feed_forward_sin", num_layers=3, hidden_size=32)
    for tensor in model.graph.initializer:
        half = values_of(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    found = pretrain(model, target="half")
    assert {array.dtype for array in found.named.values()} == {np.dtype(np.float16)}
    assert found.report.is_reached


def test_quantised_models_are_refused_with_the_way_out() -> None:
    model = build("feed_forward_relu", num_layers=3, hidden_size=16)
    weight = next(t for t in model.graph.initializer if len(t.dims) == 2)
    name, array = weight.name, values_of(weight)
    scale = np.float32(np.abs(array).max() / 127)
    model.graph.initializer.remove(weight)
    model.graph.initializer.extend(
        [
            onnx.numpy_helper.from_array(np.round(array / scale).astype(np.int8), f"{name}_q"),
            onnx.numpy_helper.from_array(scale, f"{name}_scale"),
        ]
    )
    node = onnx.helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_scale"], [name])
    model.graph.node.insert(0, node)
    with pytest.raises(AnalysisError, match="quantised model cannot be pre-trained") as error:
        pretrain(model)
    assert "float model that it was made from" in str(error.value)


@pytest.mark.parametrize(
    "options", [{"method": "magic"}, {"tolerance": 0.0}, {"max_iterations": -1}, {"target": "third"}]
)
def test_wrong_requests_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        pretrain(build("gru"), num_steps=4, **options)


def test_without_iterations_nothing_changes() -> None:
    model = build("gru")
    found = pretrain(model, num_steps=8, max_iterations=0)
    before = {t.name: values_of(t) for t in model.graph.initializer}
    assert all(np.array_equal(value, before[name]) for name, value in found.named.items())
    assert found.report.stop_reason == "the 0 iterations given are used up"


def test_what_frozen_layers_cannot_reach_does_not_carry_off_the_others() -> None:
    report = pretrain(build("gru"), num_steps=16, freeze=["layer_1*"]).report
    reached = {(change.source, change.layer): change.is_reached for change in report.radii}
    assert reached["layer_0", "layer_0"]
    assert not reached["layer_0", "layer_1"]
    assert all(change.is_reached or change.reason for change in report.radii)
