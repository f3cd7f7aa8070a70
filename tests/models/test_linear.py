"""Linear networks: gradients through ONNX Runtime are the closed forms."""

from __future__ import annotations

from collections.abc import Callable
from math import comb

import numpy as np
import onnx
import pytest

from lsc_graph import models

Run = Callable[[onnx.ModelProto, dict[str, np.ndarray]], dict[str, np.ndarray]]
Stream = Callable[[onnx.ModelProto, np.ndarray], tuple[np.ndarray, list[dict[str, np.ndarray]]]]
Jacobian = Callable[..., np.ndarray]

FORMS = ["fused_op", "scan", "loop", "unrolled"]


def impulse_responses(run: Run, model: onnx.ModelProto, num_steps: int, size: int) -> np.ndarray:
    """y[t] - y0[t] when unit 0 of x[s] goes up by 1, at a random x: array [s,t,H]."""
    x = np.random.default_rng(0).integers(-4, 4, (num_steps, 1, size)).astype(np.float32)
    base = run(model, {"x": x})["y"]
    rows = []
    for s in range(num_steps):
        moved = x.copy()
        moved[s, 0, 0] += 1
        rows.append((run(model, {"x": moved})["y"] - base)[:, 0])
    return np.array(rows, dtype=np.float64)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("num_layers", "radius"), [(1, 0.5), (3, 0.5), (4, 1.0), (3, 0.25)])
def test_the_pascal_rnn_responds_by_its_triangle(run: Run, form: str, num_layers: int, radius: float) -> None:
    model = models.build(
        "pascal_rnn", num_layers=num_layers, radius=radius, hidden_size=2, form=form, num_steps=6
    )
    response = impulse_responses(run, model, 6, 2)
    for s in range(6):
        for t in range(6):
            dt = t - s
            exact = 0.0 if dt < 0 else radius ** (num_layers + dt) * comb(num_layers - 1 + dt, dt)
            np.testing.assert_allclose(response[s, t], [exact, 0.0], rtol=1e-5, atol=1e-5)
            if dt >= 0:
                assert models.pascal_gradient(radius, num_layers, dt) == exact


def test_the_pascal_rnn_streams_like_the_fused_one(run: Run, stream: Stream) -> None:
    x = np.random.default_rng(1).standard_normal((9, 2, 3))
    options = {"num_layers": 4, "hidden_size": 3, "radius": 0.7}
    y, states = stream(models.build("pascal_rnn", form="streaming", **options), x)
    fused = run(models.build("pascal_rnn", **options), {"x": x})
    np.testing.assert_allclose(y, fused["y"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.stack(list(states[-1].values())), fused["h_n"], rtol=1e-5, atol=1e-6)


def test_with_radius_one_the_sum_of_outputs_is_the_hockey_stick(run: Run) -> None:
    model = models.build("pascal_rnn", num_layers=3, radius=1.0)
    response = impulse_responses(run, model, 7, 1)[..., 0]
    for s in range(7):
        assert response[s].sum() == comb(3 + 6 - s, 3)


@pytest.mark.parametrize("form", FORMS[1:])
def test_the_orthogonal_rnn_is_the_same_in_every_form(run: Run, form: str) -> None:
    x = np.random.default_rng(2).standard_normal((6, 2, 5))
    options = {"input_size": 5, "num_layers": 3, "radius": 0.9, "depth_radius": 0.8}
    fused = run(models.build("linear_orthogonal_rnn", 4, **options), {"x": x})
    other = run(models.build("linear_orthogonal_rnn", 4, form=form, num_steps=6, **options), {"x": x})
    np.testing.assert_allclose(other["y"], fused["y"], rtol=1e-4, atol=1e-5)
    finals = np.stack([other[f"h{layer}_final"] for layer in range(3)])
    np.testing.assert_allclose(finals, fused["h_n"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("radius", "depth_radius"), [(0.5, 0.5), (1.0, 0.25), (1.1, 0.0)])
def test_every_singular_value_in_time_and_depth_is_the_cards_radius(
    jacobian: Jacobian, radius: float, depth_radius: float
) -> None:
    options = {"radius": radius, "depth_radius": depth_radius, "num_layers": 2, "form": "streaming"}
    model, card = (f("linear_orthogonal_rnn", 5, **options) for f in (models.build, models.card))
    generator = np.random.default_rng(3)
    feeds = {name: generator.standard_normal((1, 16)) for name in ("x", "h0", "h1")}
    for layer in range(2):
        in_time = jacobian(model, feeds, [f"h{layer}"], [f"h{layer}n"], 0.5)
        values = np.linalg.svd(in_time, compute_uv=False)
        np.testing.assert_allclose(values, card.time_radius[layer], atol=1e-5)
        np.testing.assert_allclose(max(abs(np.linalg.eigvals(in_time))), card.time_radius[layer], atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(in_time) / 4, card.time_gain[layer], atol=1e-5)
    below = jacobian(model, feeds, ["x"], ["h0n"], 0.5)
    np.testing.assert_allclose(np.linalg.svd(below, compute_uv=False), depth_radius, atol=1e-5)
    both = jacobian(model, feeds, ["h0"], ["h1n"], 0.5)
    assert card.depth_radius == (depth_radius,)
    np.testing.assert_allclose(np.linalg.svd(both, compute_uv=False), radius * card.depth_gain[0], atol=1e-5)
