"""Products with directions by differences are within their bars, and these tell something."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lsc_graph.running.reference import Array, Reference
from lsc_graph.to_torch.copies import Runs
from lsc_graph.to_torch.differences import Difference, Differences
from lsc_graph.to_torch.directional import directional

N = 48
BODIES = {
    "tanh": ("y = Tanh(p)", lambda p: 1 - np.tanh(p) ** 2),
    "sine": ("y = Sin(p)", np.cos),
    "exponential": ("y = Exp(p)", np.exp),
    "relu": ("y = Relu(p)", lambda p: (p > 0).astype(float)),
}


def taken(body: str, point: Array, direction: Array, dtype: Any) -> tuple[Difference, Array]:
    """A product with a direction of what follows a product with weights, and these."""
    weights = (np.random.default_rng(0).standard_normal((N, N)) / N**0.5).astype(dtype)
    kind = "double" if dtype is np.float64 else "float"
    proto = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g ({kind}[1, {N}] x) => ({kind}[1, {N}] y) {{ p = MatMul(x, w) {body} }}"""
    )
    proto.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    record = Differences()
    runs = Runs(
        Reference(proto),
        ["x"],
        dtype,
        has_free_sizes=False,
        bytes_per_point=lambda _: 1,
        note=record.note_run,
    )
    return directional(runs, [point.astype(dtype)], {0: direction}, record), weights


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 3.0])
@pytest.mark.parametrize("name", BODIES)
def test_products_are_within_their_bars(name: str, scale: float, dtype: Any) -> None:
    if name == "relu" and scale == 0:
        pytest.skip("at a kink there is no derivative")
    body, slope = BODIES[name]
    draw = np.random.default_rng(1).standard_normal
    point = scale * draw((1, N))
    for size in (1e-4, 1.0, 50.0):
        direction = size * draw((1, N))
        found, weights = taken(body, point, direction, dtype)
        product = point.astype(dtype).astype(float) @ weights.astype(float)
        exact = slope(product) * (direction @ weights.astype(float))
        off = np.linalg.norm(found.jacobian[:, 0] - exact[0])
        assert off <= found.bars[0] * (1 + 1e-5)
        if name != "relu":
            assert found.bars[0] <= (3e-3 if dtype is np.float32 else 1e-5) * np.linalg.norm(exact)


def test_the_bar_reaches_both_slopes_of_kinks_that_the_point_is_at() -> None:
    direction = np.random.default_rng(2).standard_normal((1, N))
    found, weights = taken("y = Relu(p)", np.zeros((1, N)), direction, np.float64)
    moved = (direction @ weights.astype(float))[0]
    for sided in (np.maximum(moved, 0), np.minimum(moved, 0)):
        assert np.linalg.norm(found.jacobian[:, 0] - sided) <= found.bars[0] * (1 + 1e-6)


def test_nothing_moves_along_a_direction_of_zeros() -> None:
    found, _ = taken("y = Tanh(p)", np.ones((1, N)), np.zeros((1, N)), np.float64)
    assert not found.jacobian.any()
    assert found.bars[0] == 0


def test_a_direction_of_several_inputs_moves_them_together() -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (double[2] a, double[2] b) => (double[2] y) { y = Mul(a, b) }"""
    )
    record = Differences()
    runs = Runs(
        Reference(proto),
        ["a", "b"],
        np.float64,
        has_free_sizes=False,
        bytes_per_point=lambda _: 1,
        note=record.note_run,
    )
    a, b, u, v = (np.array(own, float) for own in ([2, 3], [500, 700], [1, -1], [40, 30]))
    found = directional(runs, [a, b], {0: u, 1: v}, record)
    assert found.jacobian[:, 0] == pytest.approx(u * b + a * v, rel=1e-9)
