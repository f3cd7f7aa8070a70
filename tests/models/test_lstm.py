"""LSTMs against numpy, in one direction and two."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from lsc_graph import models

Arrays = dict[str, np.ndarray]
Run = Callable[[onnx.ModelProto, dict[str, np.ndarray]], dict[str, np.ndarray]]
Weights = Callable[[onnx.ModelProto], dict[str, np.ndarray]]


def sigmoid(value: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-value)))


def run_direction(
    x: np.ndarray, w: np.ndarray, r: np.ndarray, b: np.ndarray, h: np.ndarray, c: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One direction over x [T,B,D]; gates in ONNX order i, o, f, c. Every h [T,B,H], the last h and c."""
    rows = []
    for x_t in x:
        i, o, f, g = np.split(x_t @ w.T + h @ r.T + b[: len(w)] + b[len(w) :], 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        rows.append(h)
    return np.stack(rows), h, c


def simulate(
    weights: Arrays, x: np.ndarray, num_layers: int, h_0: np.ndarray, c_0: np.ndarray
) -> tuple[np.ndarray, ...]:
    """As torch.nn.LSTM: y [T,B,dirs*H], h_n and c_n [L*dirs,B,H]."""
    finals = []
    for layer in range(num_layers):
        packed = [weights[f"layer_{layer}.{part}"] for part in ("weight_ih", "weight_hh", "bias")]
        ways = []
        for way, (w, r, b) in enumerate(zip(*packed, strict=True)):
            seen = x[::-1] if way else x
            state = layer * len(packed[0]) + way
            y, h, c = run_direction(seen, w, r, b, h_0[state], c_0[state])
            ways.append(y[::-1] if way else y)
            finals.append((h, c))
        x = np.concatenate(ways, axis=-1)
    return x, *(np.stack(part) for part in zip(*finals, strict=True))


@pytest.mark.parametrize(
    ("name", "num_layers", "directions"),
    [("lstm", 3, 1), ("bidirectional_lstm", 2, 2), ("bidirectional_lstm", 3, 2)],
)
def test_outputs_and_final_states_are_those_of_the_recurrence(
    run: Run, weights_of: Weights, name: str, num_layers: int, directions: int
) -> None:
    model = models.build(name, 5, num_layers=num_layers, initial_state="input", forget_bias=0.5)
    generator = np.random.default_rng(0)
    x = generator.standard_normal((7, 2, 8))
    h_0, c_0 = generator.standard_normal((2, num_layers * directions, 2, 16))
    outputs = run(model, {"x": x, "h_0": h_0, "c_0": c_0})
    for key, value in zip(
        ("y", "h_n", "c_n"), simulate(weights_of(model), x, num_layers, h_0, c_0), strict=True
    ):
        np.testing.assert_allclose(outputs[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["lstm", "bidirectional_lstm"])
def test_the_forget_bias_moves_the_forget_gate_alone(weights_of: Weights, name: str) -> None:
    plain, shifted = (weights_of(models.build(name, forget_bias=bias)) for bias in (0.0, 1.0))
    for key, value in plain.items():
        expected = np.zeros_like(value)
        if key.endswith("bias"):
            expected[:, 32:48] = 1
        np.testing.assert_allclose(shifted[key] - value, expected, atol=1e-6)


def test_the_reverse_direction_sees_the_future(run: Run) -> None:
    model = models.build("bidirectional_lstm", num_layers=1)
    x = np.random.default_rng(1).standard_normal((6, 1, 8))
    moved = x.copy()
    moved[4] += 1
    change = abs(run(model, {"x": moved})["y"] - run(model, {"x": x})["y"])[:, 0]
    assert not change[:4, :16].any()
    assert change[:5, 16:].any(axis=1).all()
    assert not change[5, 16:].any()
