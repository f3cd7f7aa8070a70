"""Adaptive spiking neurons against numpy, and what thresholds do to gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from lsc_graph import models

Arrays = dict[str, np.ndarray]
Run = Callable[[onnx.ModelProto, dict[str, np.ndarray]], dict[str, np.ndarray]]
Weights = Callable[[onnx.ModelProto], dict[str, np.ndarray]]
Stream = Callable[[onnx.ModelProto, np.ndarray], tuple[np.ndarray, list[dict[str, np.ndarray]]]]
Jacobian = Callable[..., np.ndarray]

PARTS = ("spike", "voltage", "adaptation")


def simulate(
    weights: Arrays, x: np.ndarray, num_layers: int, spike: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """y [T,B,O] and per layer the states (z, v, b), each [T,B,H]."""
    visited = []
    for layer in range(num_layers):
        p = {k.split(".")[1]: v for k, v in weights.items() if k.startswith(f"layer_{layer}.")}
        z = v = b = np.zeros((x.shape[1], len(p["alpha"])))
        rows = []
        for x_t in x:
            current = x_t @ p["weight_in"].T + z @ p["weight_rec"].T
            v = p["alpha"] * v + (1 - p["alpha"]) * current - (p["theta"] + weights["beta"] * b) * z
            b = p["rho"] * b + (1 - p["rho"]) * z
            z = spike(v - p["theta"] - weights["beta"] * b)
            rows.append((z, v, b))
        visited.append(np.stack(rows, axis=1))
        x = visited[-1][0]
    return x @ weights["readout.weight"].T + weights["readout.bias"], visited


SPIKES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "alif": lambda excess: (excess > 0).astype(float),
    "alif_smooth": lambda excess: 1 / (1 + np.exp(-20 * excess)),
}


@pytest.mark.parametrize("name", SPIKES)
@pytest.mark.parametrize("num_layers", [1, 3])
def test_streaming_is_the_recurrence(stream: Stream, weights_of: Weights, name: str, num_layers: int) -> None:
    model = models.build(name, 1, num_layers=num_layers)
    x = 2 * np.random.default_rng(0).standard_normal((30, 3, 8))
    y, states = stream(model, x)
    expected, visited = simulate(weights_of(model), x, num_layers, SPIKES[name])
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-4)
    for layer in range(num_layers):
        for part, value in zip(PARTS, visited[layer][:, -1], strict=True):
            np.testing.assert_allclose(states[-1][f"state{layer}_{part}"], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", ["scan", "loop", "unrolled"])
@pytest.mark.parametrize("name", SPIKES)
def test_the_other_forms_are_the_streaming_step_over_time(
    run: Run, stream: Stream, name: str, form: str
) -> None:
    x = 2 * np.random.default_rng(1).standard_normal((6, 2, 8))
    y, _ = stream(models.build(name), x)
    outputs = run(models.build(name, form=form, num_steps=6), {"x": x})
    np.testing.assert_allclose(outputs["y"], y, rtol=1e-4, atol=1e-5)


def test_every_layer_spikes_now_and_then(stream: Stream) -> None:
    x = np.random.default_rng(2).standard_normal((200, 4, 8))
    _, states = stream(models.build("alif"), x)
    for layer in range(2):
        spikes = np.stack([state[f"state{layer}_spike"] for state in states])
        assert set(np.unique(spikes)) == {0.0, 1.0}
        assert 0.02 < spikes[50:].mean() < 0.15


def test_a_spike_raises_the_threshold_and_lowers_the_voltage(run: Run) -> None:
    model = models.build("alif", num_layers=1, hidden_size=1)
    rest = {"x": np.zeros((1, 8)), **{f"state0_{part}": np.zeros((1, 1)) for part in PARTS}}
    fired = run(model, rest | {"state0_spike": np.ones((1, 1))})
    quiet = run(model, rest)
    assert fired["state0_adaptation_next"] > quiet["state0_adaptation_next"] == 0
    weights = {t.name: t for t in model.graph.initializer}
    recurrent = np.frombuffer(weights["layer_0.weight_rec"].raw_data, np.float32)[0]
    expected = (1 - np.exp(-1 / 20)) * recurrent - 0.03
    assert fired["state0_voltage_next"].item() == pytest.approx(expected, abs=1e-6)


def step_feeds(model: onnx.ModelProto, generator: np.random.Generator) -> Arrays:
    feeds = {
        v.name: generator.standard_normal((1, v.type.tensor_type.shape.dim[1].dim_value))
        for v in model.graph.input
    }
    feeds |= {k: np.float64(v > 0) for k, v in feeds.items() if k.endswith("spike")}
    return feeds


def states_of(layer: int, suffix: str = "") -> list[str]:
    return [f"state{layer}_{part}{suffix}" for part in PARTS]


def test_true_spikes_leave_only_the_decays_in_time_and_nothing_in_depth(jacobian: Jacobian) -> None:
    decays = {"voltage_decay": 0.8, "adaptation_decay": 0.9}
    model, card = (f("alif", 2, **decays) for f in (models.build, models.card))
    feeds = step_feeds(model, np.random.default_rng(3))
    for layer in range(2):
        in_time = jacobian(model, feeds, states_of(layer), states_of(layer, "_next"), 1e-3)
        np.testing.assert_array_equal(in_time[:16], 0)
        assert max(abs(np.linalg.eigvals(in_time))) == pytest.approx(card.time_radius[layer], abs=2e-3)
    assert card.time_radius == pytest.approx((0.9, 0.9))
    np.testing.assert_array_equal(jacobian(model, feeds, states_of(0), states_of(1, "_next"), 1e-3), 0)
    assert not card.is_differentiable


def test_smooth_spikes_pass_gradients_in_time_and_depth(jacobian: Jacobian) -> None:
    model, card = models.build("alif_smooth", 2), models.card("alif_smooth", 2)
    feeds = step_feeds(model, np.random.default_rng(3))
    assert np.linalg.norm(jacobian(model, feeds, states_of(0), states_of(1, "_next"))) > 1e-2
    assert np.linalg.norm(jacobian(model, feeds, ["x"], ["y"])) > 1e-4
    assert card.is_differentiable
    assert card.time_radius is None
