"""What a mean with its noise says about its target."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lsc_graph.pretraining.problem import Effort
from lsc_graph.pretraining.reading import Reading
from lsc_graph.pretraining.trainable import as_trained
from tests.pretraining_problems import problem_of


def reading(error: float, std_error: float) -> Reading:
    """Of 64 samples with one point each; their mean is off by `error` and known to `std_error`."""
    values = torch.tensor([1.0, 1.0, -1.0, -1.0] * 16, dtype=torch.float64)
    unit = Reading(("layer_0", "layer_0"), values, True, None, (1,) * 64).std_error
    return Reading(("layer_0", "layer_0"), 0.5 + error + std_error / unit * values, True, None, (1,) * 64)


@pytest.mark.parametrize(
    ("error", "std_error", "is_sure", "agrees", "is_as_near_as_known", "is_reached"),
    [
        (0.010, 0.003, True, True, True, True),
        (0.018, 0.003, False, False, False, True),
        (0.018, 0.006, False, False, True, True),
        (0.018, 0.008, False, True, True, True),
        (0.025, 0.003, False, False, False, True),
        (0.025, 0.014, False, False, True, True),
        (0.040, 0.014, False, False, False, True),
        (0.040, 0.005, False, False, False, False),
        (0.000, 0.030, False, False, True, False),
    ],
)
def test_a_fit_ends_by_noise_only_where_no_sharper_mean_can_be_had(
    error: float, std_error: float, is_sure: bool, agrees: bool, is_as_near_as_known: bool, is_reached: bool
) -> None:
    problem = problem_of("gru")
    found = reading(error, std_error)
    assert found.std_error == pytest.approx(std_error)
    assert problem.is_sure(found) is is_sure
    assert problem.agrees(found) is agrees
    assert problem.is_as_near_as_known(found) is is_as_near_as_known
    assert problem.is_reached(found) is is_reached


@pytest.mark.parametrize(
    ("num_samples", "error", "std_error", "is_over"),
    [
        (64, 0.06, 0.01, True),
        (64, 0.04, 0.01, False),
        (16, 0.06, 0.01, False),
        (16, 0.20, 0.01, True),
        (4, 0.40, 0.01, False),
    ],
)
def test_a_confirmation_ends_early_only_where_a_mean_is_far_off_beyond_chance(
    num_samples: int, error: float, std_error: float, is_over: bool
) -> None:
    """Of many radii at their targets some seem to be off by two standard errors of few samples."""
    of_many = reading(error, std_error)
    found = replace(of_many, values=of_many.values[:num_samples], sizes=(1,) * num_samples)
    assert problem_of("gru").is_surely_off(found) is is_over


def test_a_look_does_not_rely_on_what_few_points_say_of_their_noise() -> None:
    problem = problem_of("feed_forward_relu")
    values = as_trained(problem.weights)
    means = {edge: own.mean for edge, own in problem.estimate(values, 4, 0.01).items()}
    problem = replace(problem, targets=means)
    for allowed in (1e3, 0.02):
        found = problem.look(values, 5, allowed)
        for own in found.values():
            is_many = len(own.sizes) >= 32 and own.std_error <= allowed
            assert is_many or own.std_error <= allowed / 3
    assert max(len(own.sizes) for own in found.values()) > 8


def test_a_look_ends_with_a_mean_that_is_surely_off() -> None:
    problem = problem_of("feed_forward_relu")
    far = replace(problem, targets=dict.fromkeys(problem.targets, 5.0))
    found = far.look(as_trained(problem.weights), 5, 0.001)
    assert any(map(far.is_surely_off, found.values()))
    assert max(len(own.sizes) for own in found.values()) == 8


def test_derivatives_take_fewer_points_only_where_radii_hardly_scatter() -> None:
    effort = Effort()
    assert effort.of_derivatives(0) == (effort.num_samples, effort.num_times)
    assert effort.of_derivatives(0, is_quiet=True) == (effort.num_samples, effort.num_times // 2)
    assert effort.of_derivatives(1, is_quiet=True) == effort.of_derivatives(1)
    many, fewer = effort.of_derivatives(9), effort.of_derivatives(9, is_predictable=True)
    assert math.prod(fewer) < math.prod(many)


@pytest.mark.parametrize("most_times", [1, 2, 5, 8, 2**30])
def test_every_doubling_doubles_the_points_however_few_steps_a_sample_has(most_times: int) -> None:
    effort = Effort(most_times=most_times)
    points = [effort.at(doublings) for doublings in range(8)]
    assert all(num_times <= most_times for _, num_times in points)
    first = math.prod(points[0])
    for doublings, own in enumerate(points):
        # A number of steps that is no power of two leaves a part of a sample over.
        assert first * 2**doublings * 0.6 < math.prod(own) <= first * 2**doublings


@pytest.mark.parametrize(
    ("width", "most_times", "is_free"), [(8, 2**30, True), (700, 2**30, False), (700, 1, True)]
)
def test_a_few_more_points_are_free_where_they_cost_little_or_samples_have_few_steps(
    width: int, most_times: int, is_free: bool
) -> None:
    problem = replace(problem_of("gru"), effort=Effort(most_times=most_times))
    edge = ("layer_0", "layer_0")
    problem.reader.blocks.sizes[edge] = width
    assert problem.is_free({edge: 3}) is is_free
    assert not problem.is_free({edge: 4})
