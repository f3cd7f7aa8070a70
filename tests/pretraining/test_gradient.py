"""Descent on the loss of the local stability condition."""

from __future__ import annotations

import pytest
import torch
from pretraining_problems import problem_of

from lsc_graph.pretraining.gradient import Averages, Descent
from lsc_graph.pretraining.reading import Reading
from lsc_graph.pretraining.trainable import as_trained


def test_the_gradient_is_that_of_the_loss_at_the_same_points() -> None:
    problem = problem_of("gru")
    values = as_trained(problem.weights)
    descent = Descent(problem, values)
    descent._set_gradients(problem.read(descent.values, 2, 6, seed=1))
    generator = torch.Generator().manual_seed(0)
    tangents = [torch.randn(value.shape, generator=generator) for value in values]

    def loss(step: float) -> float:
        moved = [value + step * tangent for value, tangent in zip(values, tangents, strict=True)]
        readings = problem.read(moved, 2, 6, seed=1)
        return sum((r.mean - problem.targets[r.edge]) ** 2 for r in readings) / len(readings)

    slope = sum(
        float((value.grad * tangent).sum())
        for value, tangent in zip(descent.values, tangents, strict=True)
        if value.grad is not None
    )
    assert slope == pytest.approx((loss(1e-4) - loss(-1e-4)) / 2e-4, rel=0.02)


def test_the_loss_is_brought_down_to_the_tolerance() -> None:
    problem = problem_of("gru")
    fit = Descent(problem, as_trained(problem.weights)).fit(200)
    assert fit.is_reached
    readings = problem.estimate(fit.values, 12345, 0.005)
    assert all(problem.agrees(reading) for reading in readings.values())


def test_moving_averages_of_a_constant_are_that_constant_from_the_start() -> None:
    averages = Averages(0.9)
    for _ in range(3):
        averages.add([Reading(("a", "a"), torch.full((4,), 0.7, dtype=torch.float64), True, None, (4,))])
        assert averages.radii() == {("a", "a"): pytest.approx(0.7)}
    assert averages.largest_error({("a", "a"): 0.5}) == pytest.approx(0.2)
