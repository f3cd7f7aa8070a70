"""One GRU in five forms."""

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

SIZES = {"num_layers": 3, "input_size": 5, "hidden_size": 7}


def sigmoid(value: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-value)))


def simulate(weights: Arrays, x: np.ndarray, num_layers: int) -> tuple[np.ndarray, np.ndarray]:
    """As torch.nn.GRU, gates in ONNX order z, r, h: y [T,B,H] and the last states."""
    finals = []
    for layer in range(num_layers):
        w, r, b = (weights[f"layer_{layer}.{part}"][0] for part in ("weight_ih", "weight_hh", "bias"))
        h, rows = np.zeros((x.shape[1], r.shape[1])), []
        for x_t in x:
            z, reset, n = np.split(x_t @ w.T + b[: len(w)], 3, axis=1)
            h_z, h_reset, h_n = np.split(h @ r.T + b[len(w) :], 3, axis=1)
            z, n = sigmoid(z + h_z), np.tanh(n + sigmoid(reset + h_reset) * h_n)
            h = (1 - z) * n + z * h
            rows.append(h)
        x = np.stack(rows)
        finals.append(h)
    return x, np.stack(finals)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((9, 3, 5))


@pytest.fixture(scope="module")
def fused(run: Run, x: np.ndarray) -> Arrays:
    return run(models.build("gru", 2, **SIZES), {"x": x})


def test_the_fused_gru_is_the_recurrence(weights_of: Weights, x: np.ndarray, fused: Arrays) -> None:
    y, h_n = simulate(weights_of(models.build("gru", 2, **SIZES)), x, 3)
    np.testing.assert_allclose(fused["y"], y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fused["h_n"], h_n, rtol=1e-4, atol=1e-5)


def test_streaming_step_by_step_is_the_fused_gru_over_the_sequence(
    stream: Stream, x: np.ndarray, fused: Arrays
) -> None:
    model = models.build("streaming_gru", 2, **SIZES)
    assert [value.name for value in model.graph.input] == ["x", "h0", "h1", "h2"]
    assert [value.name for value in model.graph.output] == ["y", "h0n", "h1n", "h2n"]
    y, states = stream(model, x)
    np.testing.assert_allclose(y, fused["y"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.stack(list(states[-1].values())), fused["h_n"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["scan_gru", "loop_gru", "unrolled_gru"])
def test_the_other_forms_are_the_fused_gru(run: Run, x: np.ndarray, fused: Arrays, name: str) -> None:
    options = {"num_steps": 9} if name == "unrolled_gru" else {}
    outputs = run(models.build(name, 2, **SIZES, **options), {"x": x})
    np.testing.assert_allclose(outputs["y"], fused["y"], rtol=1e-4, atol=1e-5)
    finals = np.stack([outputs[f"h{layer}_final"] for layer in range(3)])
    np.testing.assert_allclose(finals, fused["h_n"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gru", "streaming_gru", "scan_gru", "loop_gru", "unrolled_gru"])
def test_all_forms_hold_the_same_numbers(weights_of: Weights, name: str) -> None:
    def numbers(which: str) -> np.ndarray:
        arrays = [a.ravel() for key, a in weights_of(models.build(which)).items() if key.startswith("layer_")]
        return np.sort(np.concatenate(arrays))

    np.testing.assert_array_equal(numbers(name), numbers("gru"))


def test_an_open_update_gate_makes_time_the_identity_and_cuts_depth(jacobian: Jacobian) -> None:
    options = {"update_bias": 100.0, **SIZES}
    model, card = (f("streaming_gru", **options) for f in (models.build, models.card))
    generator = np.random.default_rng(1)
    feeds = {name: generator.standard_normal((1, 7)) for name in ("h0", "h1", "h2")}
    feeds["x"] = generator.standard_normal((1, 5))
    for layer in range(3):
        in_time = jacobian(model, feeds, [f"h{layer}"], [f"h{layer}n"], 0.25)
        np.testing.assert_allclose(in_time, np.eye(7), atol=1e-6)
    across = jacobian(model, feeds, ["h0", "x"], ["h1n", "h2n"], 0.25)
    np.testing.assert_array_equal(across, 0)
    assert (card.time_radius, card.time_gain) == ((1.0,) * 3, (1.0,) * 3)
    assert (card.depth_radius, card.depth_gain) == ((0.0,) * 2, (0.0,) * 2)


def test_an_ordinary_gate_promises_nothing() -> None:
    assert models.card("gru", update_bias=1.0).time_radius is None
