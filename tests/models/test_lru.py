"""The Linear Recurrent Unit against complex numpy, and its spectrum."""

from __future__ import annotations

from collections.abc import Callable
from math import erf, sqrt

import numpy as np
import onnx
import pytest

from lsc_graph import models

Arrays = dict[str, np.ndarray]
Run = Callable[[onnx.ModelProto, dict[str, np.ndarray]], dict[str, np.ndarray]]
Weights = Callable[[onnx.ModelProto], dict[str, np.ndarray]]
Stream = Callable[[onnx.ModelProto, np.ndarray], tuple[np.ndarray, list[dict[str, np.ndarray]]]]
Jacobian = Callable[..., np.ndarray]

RINGS = [(0.0, 1.0), (0.5, 0.6), (0.9, 0.999)]


def simulate(weights: Arrays, x: np.ndarray, num_layers: int) -> tuple[np.ndarray, np.ndarray]:
    """y [T,B,D] and the complex states [L,T,B,N]."""

    def dense(name: str, value: np.ndarray) -> np.ndarray:
        return value @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    u, visited = dense("encoder", x), []
    for layer in range(num_layers):
        p = {k.split(".")[1]: v for k, v in weights.items() if k.startswith(f"layer_{layer}.")}
        norm = (u - u.mean(-1, keepdims=True)) / np.sqrt(u.var(-1, keepdims=True) + 1e-5)
        lam = np.exp(-np.exp(p["nu_log"]) + 1j * np.exp(p["theta_log"]))
        b, c = p["b_re"] + 1j * p["b_im"], p["c_re"] + 1j * p["c_im"]
        h, rows = np.zeros((x.shape[1], len(lam)), complex), []
        for u_t in norm:
            h = lam * h + np.exp(p["gamma_log"]) * (u_t @ b.T)
            rows.append(h)
        visited.append(np.stack(rows))
        v = (visited[-1] @ c.T).real + p["d"] * norm
        v = v * (1 + np.vectorize(erf)(v / sqrt(2))) / 2
        gate = 1 / (1 + np.exp(-dense(f"layer_{layer}.glu_gate", v)))
        u = u + dense(f"layer_{layer}.glu_value", v) * gate
    return dense("decoder", u), np.stack(visited)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_streaming_in_real_numbers_is_the_complex_recurrence(
    stream: Stream, weights_of: Weights, num_layers: int
) -> None:
    model = models.build("lru", 3, num_layers=num_layers)
    x = np.random.default_rng(0).standard_normal((12, 2, 8))
    y, states = stream(model, x)
    expected, visited = simulate(weights_of(model), x, num_layers)
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-4)
    for layer in range(num_layers):
        h = states[-1][f"h{layer}_re"] + 1j * states[-1][f"h{layer}_im"]
        np.testing.assert_allclose(h, visited[layer, -1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", ["scan", "loop", "unrolled"])
def test_the_other_forms_are_the_streaming_step_over_time(run: Run, stream: Stream, form: str) -> None:
    x = np.random.default_rng(1).standard_normal((6, 2, 8))
    y, states = stream(models.build("lru"), x)
    outputs = run(models.build("lru", form=form, num_steps=6), {"x": x})
    np.testing.assert_allclose(outputs["y"], y, rtol=1e-4, atol=1e-5)
    for name, value in states[-1].items():
        np.testing.assert_allclose(outputs[f"{name}_final"], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("r_min", "r_max"), RINGS)
def test_the_cards_radius_and_gain_are_those_of_the_real_step_at_any_input(
    jacobian: Jacobian, r_min: float, r_max: float
) -> None:
    options = {"r_min": r_min, "r_max": r_max}
    model, card = (f("lru", 6, **options) for f in (models.build, models.card))
    for scale in (0.0, 1.0, 5.0):
        generator = np.random.default_rng(2)
        feeds = {
            v.name: scale * generator.standard_normal((1, v.type.tensor_type.shape.dim[1].dim_value))
            for v in model.graph.input
        }
        for layer in range(2):
            names = [f"h{layer}_re", f"h{layer}_im"]
            in_time = jacobian(model, feeds, names, [f"{name}_next" for name in names], 0.5)
            radius = max(abs(np.linalg.eigvals(in_time)))
            assert radius == pytest.approx(card.time_radius[layer], abs=1e-5)
            assert np.linalg.norm(in_time) / sqrt(32) == pytest.approx(card.time_gain[layer], abs=1e-5)


@pytest.mark.parametrize(("r_min", "r_max"), RINGS)
def test_the_magnitudes_fill_their_ring_uniformly_in_area(
    weights_of: Weights, r_min: float, r_max: float
) -> None:
    weights = weights_of(models.build("lru", hidden_size=2000, num_layers=1, r_min=r_min, r_max=r_max))
    squares = np.exp(-2 * np.exp(weights["layer_0.nu_log"]))
    share = (squares - r_min**2) / (r_max**2 - r_min**2)
    assert share.min() >= -1e-4
    assert share.max() <= 1 + 1e-4
    assert abs(share.mean() - 0.5) < 0.03
    assert abs(share.std() - sqrt(1 / 12)) < 0.02


def test_gamma_normalises_the_input_by_what_the_state_forgets(weights_of: Weights) -> None:
    weights = weights_of(models.build("lru"))
    squares = np.exp(-2 * np.exp(weights["layer_0.nu_log"]))
    np.testing.assert_allclose(np.exp(2 * weights["layer_0.gamma_log"]), 1 - squares, atol=1e-5)
