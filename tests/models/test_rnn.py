"""Tanh and ReLU networks against numpy, and their options."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from lsc_graph import models

Arrays = dict[str, np.ndarray]
Run = Callable[[onnx.ModelProto, dict[str, np.ndarray]], dict[str, np.ndarray]]
Weights = Callable[[onnx.ModelProto], dict[str, np.ndarray]]


def simulate(
    weights: Arrays,
    x: np.ndarray,
    num_layers: int,
    activation: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """y [T,B,H] and the last states [L,B,H]."""
    finals = []
    for layer in range(num_layers):
        w, r, b = (weights[f"layer_{layer}.{part}"][0] for part in ("weight_ih", "weight_hh", "bias"))
        h = np.zeros((x.shape[1], r.shape[0])) if start is None else start[layer]
        rows = []
        for x_t in x:
            h = activation(x_t @ w.T + h @ r.T + b[: len(r)] + b[len(r) :])
            rows.append(h)
        x = np.stack(rows)
        finals.append(h)
    return x, np.stack(finals)


@pytest.mark.parametrize(
    ("name", "activation"), [("tanh_rnn", np.tanh), ("relu_rnn", lambda value: np.maximum(value, 0))]
)
def test_outputs_are_those_of_the_recurrence(
    run: Run, weights_of: Weights, name: str, activation: Callable[[np.ndarray], np.ndarray]
) -> None:
    model = models.build(name, 1, num_layers=2, recurrent_scale=1.5, initial_state="input")
    generator = np.random.default_rng(0)
    x, start = generator.standard_normal((6, 3, 8)), generator.standard_normal((2, 3, 16))
    y, h_n = simulate(weights_of(model), x, 2, activation, start)
    outputs = run(model, {"x": x, "h_0": start})
    np.testing.assert_allclose(outputs["y"], y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs["h_n"], h_n, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["tanh_rnn", "relu_rnn", "lstm", "bidirectional_lstm"])
def test_initial_states_left_out_made_in_the_graph_and_given_as_zeros_are_the_same(
    run: Run, name: str
) -> None:
    x = np.random.default_rng(3).standard_normal((5, 2, 8))
    results = []
    for initial_state in ("omitted", "zeros", "input"):
        model = models.build(name, initial_state=initial_state)
        inputs = [value for value in model.graph.input if value.name != "x"]
        assert bool(inputs) == (initial_state == "input")
        zeros = {
            v.name: np.zeros((v.type.tensor_type.shape.dim[0].dim_value, 2, 16), np.float32) for v in inputs
        }
        results.append(run(model, {"x": x, **zeros}))
    for other in results[1:]:
        for key, value in results[0].items():
            np.testing.assert_array_equal(other[key], value)


def test_torch_weights_fill_the_range_of_one_over_the_root_of_the_width(weights_of: Weights) -> None:
    for array in weights_of(models.build("tanh_rnn", hidden_size=64)).values():
        if array.ndim >= 2:
            assert 0.9 / 8 < abs(array).max() <= 1 / 8


def test_orthogonal_and_identity_recurrent_weights_are_what_they_say(weights_of: Weights) -> None:
    r = weights_of(models.build("tanh_rnn", recurrent_init="orthogonal", recurrent_scale=0.5))[
        "layer_1.weight_hh"
    ]
    np.testing.assert_allclose(r[0] @ r[0].T, 0.25 * np.eye(16), atol=1e-6)
    r = weights_of(models.build("relu_rnn", recurrent_init="identity", recurrent_scale=2.0))[
        "layer_2.weight_hh"
    ]
    np.testing.assert_array_equal(r[0], 2 * np.eye(16))
