"""Feed-forward networks against numpy, and what their weights do to signals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from lsc_graph import models

Run = Callable[[onnx.ModelProto, dict[str, np.ndarray]], dict[str, np.ndarray]]
Weights = Callable[[onnx.ModelProto], dict[str, np.ndarray]]
Jacobian = Callable[..., np.ndarray]

ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "feed_forward_sin": np.sin,
    "feed_forward_relu": lambda value: np.maximum(value, 0),
    "feed_forward_cos": np.cos,
    "feed_forward_linear": lambda value: value,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("output_size", [0, 10])
def test_outputs_are_layer_after_layer(run: Run, weights_of: Weights, name: str, output_size: int) -> None:
    model = models.build(name, 1, num_layers=6, init="glorot", output_size=output_size)
    weights, x = weights_of(model), np.random.default_rng(0).standard_normal((5, 64))
    value = x
    for layer in range(6):
        value = ACTIVATIONS[name](value @ weights[f"layer_{layer}.weight"].T + weights[f"layer_{layer}.bias"])
    if output_size:
        value = value @ weights["layer_6.weight"].T + weights["layer_6.bias"]
    np.testing.assert_allclose(run(model, {"x": x})["y"], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_they_are_thirty_layers_of_128_and_a_head_is_one_more(name: str) -> None:
    assert models.card(name).state_sizes == (128,) * 30
    assert models.card(name, output_size=10).state_sizes == (128,) * 30 + (10,)


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_orthogonal_linear_layers_have_the_cards_gain(jacobian: Jacobian, scale: float) -> None:
    options = {"init": "orthogonal", "scale": scale, "num_layers": 3, "input_size": 8, "hidden_size": 8}
    model, card = (f("feed_forward_linear", **options) for f in (models.build, models.card))
    whole = jacobian(model, {"x": np.ones((1, 8))}, ["x"], ["y"], 1.0)
    np.testing.assert_allclose(np.linalg.svd(whole, compute_uv=False), scale**3, rtol=1e-5)
    assert card.depth_radius == card.depth_gain == (scale, scale)


def test_only_orthogonal_linear_layers_without_a_head_are_promised_anything() -> None:
    orthogonal = {"init": "orthogonal"}
    assert models.card("feed_forward_relu", **orthogonal).depth_radius is None
    assert models.card("feed_forward_linear").depth_radius is None
    assert models.card("feed_forward_linear", **orthogonal, output_size=3).depth_radius is None


def test_he_keeps_the_signal_through_thirty_relu_layers_and_torchs_default_loses_it(
    jacobian: Jacobian,
) -> None:
    """Var = 2 / n_in against 1 / (3 n_in): a factor sqrt(1/6) a layer, 30 of them 11.7 decades."""
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 64))}
    norms = [
        np.linalg.norm(
            jacobian(models.build("feed_forward_relu", 2, init="he", scale=scale), feeds, ["x"], ["y"], 1e-2)
        )
        for scale in (1.0, 0.5)
    ]
    assert 0.5 < norms[0] / np.sqrt(64) < 4
    assert np.log10(norms[0] / norms[1]) == pytest.approx(30 * np.log10(2), abs=0.1)
    weights = [models.build("feed_forward_relu", 2, init=init) for init in ("he", "torch")]
    stds = [np.frombuffer(m.graph.initializer[1].raw_data, np.float32).std() for m in weights]
    assert stds[0] / stds[1] == pytest.approx(np.sqrt(6), rel=0.05)


def test_the_residual_network_is_its_blocks(run: Run, weights_of: Weights) -> None:
    model = models.build("residual_mlp", 3)
    weights, x = weights_of(model), np.random.default_rng(1).standard_normal((4, 32))
    value = x
    for layer in range(8):
        p = {
            k.removeprefix(f"layer_{layer}."): v
            for k, v in weights.items()
            if k.startswith(f"layer_{layer}.")
        }
        norm = (value - value.mean(1, keepdims=True)) / np.sqrt(value.var(1, keepdims=True) + 1e-5)
        inside = np.maximum(norm @ p["up.weight"].T + p["up.bias"], 0)
        value = value + inside @ p["down.weight"].T + p["down.bias"]
    np.testing.assert_allclose(run(model, {"x": x})["y"], value, rtol=1e-4, atol=1e-5)


def test_without_branches_the_residual_network_is_the_identity(run: Run) -> None:
    x = np.random.default_rng(2).standard_normal((3, 32)).astype(np.float32)
    model, card = (f("residual_mlp", branch_scale=0.0) for f in (models.build, models.card))
    np.testing.assert_array_equal(run(model, {"x": x})["y"], x)
    assert card.depth_radius == card.depth_gain == (1.0,) * 7
