"""Sensitivities are averaged near the targets, and steps keep away from what is their noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lsc_graph.pretraining.gauss_newton import least_norm_step
from lsc_graph.pretraining.sensitivities import Sensitivities


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def taken(readings: list[Tensor], *, is_near: bool = True) -> Sensitivities:
    found = Sensitivities()
    for reading in readings:
        found.take(reading, is_near=is_near)
    return found


def test_readings_are_averaged_near_the_targets_alone() -> None:
    readings = [random(3, 4, seed=seed) for seed in range(5)]
    torch.testing.assert_close(taken(readings).mean, torch.stack(readings).mean(0))
    assert torch.equal(taken(readings, is_near=False).mean, readings[-1])


def test_readings_of_other_edges_begin_an_average_of_their_own() -> None:
    found = taken([random(3, 4, seed=0), random(3, 4, seed=1), random(2, 4, seed=2)])
    assert torch.equal(found.mean, random(2, 4, seed=2))
    assert found.count == 1
    assert not found.misses


def test_a_first_step_is_the_one_of_least_norm() -> None:
    reading, errors = 0.5 * random(2, 6, seed=0).clamp(-1, 1), random(2, seed=1)
    step, units = taken([reading]).step(errors)
    torch.testing.assert_close(units, torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(step, least_norm_step(reading, errors, 1e-3))


@pytest.mark.parametrize("count", [2, 5, 40])
def test_the_noise_of_the_mean_is_known_from_how_readings_miss_it(count: int) -> None:
    """Its squares are those of mean minus truth: sigma^2 / n, or of the average that forgets."""
    truth, sigma = random(30, 20, seed=0), 0.3
    found = taken([truth + sigma * random(30, 20, seed=1 + k) for k in range(count)])
    expected = float((found.mean - truth).square().sum())
    assert float(found._noise().square().sum()) == pytest.approx(expected, rel=0.25)


def test_steps_leave_less_of_the_errors_where_some_unknowns_are_noisy() -> None:
    left = []
    for seed in range(20):
        truth, errors = 0.3 * random(6, 30, seed=3 * seed), random(6, seed=3 * seed + 1)
        sizes = torch.where(torch.arange(30) < 15, 1.0, 0.02).double()
        noise = random(4, 6, 30, seed=3 * seed + 2) * sizes
        found = taken([truth + own for own in noise])
        careful, _ = found.step(errors)
        found.misses = []
        plain, _ = found.step(errors)
        left.append([float((errors + truth @ step).square().sum()) for step in (careful, plain)])
    careful, plain = torch.tensor(left).mean(0).tolist()
    assert careful < plain / 2


def test_a_state_goes_on_as_if_there_had_been_no_break() -> None:
    readings, errors = [random(3, 4, seed=seed) for seed in range(4)], random(3, seed=9)
    again = Sensitivities()
    again.restore(taken(readings[:2]).state())
    for reading in readings[2:]:
        again.take(reading, is_near=True)
    assert torch.equal(again.step(errors)[0], taken(readings).step(errors)[0])
