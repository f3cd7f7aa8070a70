"""Steps of least norm, and estimates that remember."""

from __future__ import annotations

import pytest
import torch

from lsc_graph.pretraining.gauss_newton import (
    Tracker,
    least_norm_step,
    nearest_rows,
    unattainable_share,
    units_of,
)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_the_step_removes_the_residuals_and_is_the_smallest_that_does() -> None:
    slopes, residuals = random(3, 8), random(3)
    step = least_norm_step(slopes, residuals, 1e-12)
    torch.testing.assert_close(slopes @ step, -residuals)
    torch.testing.assert_close(step, -torch.linalg.pinv(slopes) @ residuals)


def test_damping_shortens_the_step() -> None:
    slopes, residuals = random(3, 8), random(3)
    lengths = [float(least_norm_step(slopes, residuals, damping).norm()) for damping in (1e-3, 0.1, 1.0)]
    assert lengths == sorted(lengths, reverse=True)


def test_in_units_an_unknown_does_no_more_for_moving_a_radius_by_many_times_itself() -> None:
    slopes, residuals = torch.tensor([[20.0, 1.0, 0.1]], dtype=torch.float64), torch.ones(1).double()
    units = units_of(slopes)
    torch.testing.assert_close(units, torch.tensor([0.05, 1.0, 1.0], dtype=torch.float64))
    effects = slopes[0] * units * least_norm_step(slopes * units, residuals, 1e-12)
    torch.testing.assert_close(effects, -torch.tensor([1.0, 1.0, 0.01], dtype=torch.float64) / 2.01)


def test_of_two_opposite_residuals_of_one_unknown_only_the_mean_can_be_removed() -> None:
    slopes = torch.ones(2, 1, dtype=torch.float64)
    share = unattainable_share(slopes, torch.tensor([1.0, -1.0], dtype=torch.float64))
    torch.testing.assert_close(share, torch.ones(2, dtype=torch.float64))
    share = unattainable_share(slopes, torch.tensor([1.0, 1.0], dtype=torch.float64))
    assert float(share.max()) == pytest.approx(0, abs=1e-12)


def test_the_row_that_points_most_nearly_along_another_is_found() -> None:
    rows = torch.tensor([[1.0, 0.0], [-2.0, 0.1], [0.3, 1.0]], dtype=torch.float64)
    assert nearest_rows(rows) == [1, 0, 0]
    assert nearest_rows(rows[:1]) == [None]


def test_equal_readings_without_moves_are_averaged() -> None:
    tracker, readings = Tracker(), random(50, 2).clamp(-0.3, 0.3)
    for reading in readings:
        tracker.observe(reading, torch.full((2,), 0.5, dtype=torch.float64))
    assert tracker.error is not None
    torch.testing.assert_close(tracker.error, readings.mean(0))
    torch.testing.assert_close(tracker.variance, torch.full((2,), 0.01, dtype=torch.float64))


def test_a_predicted_move_shifts_the_estimate_and_makes_it_less_certain() -> None:
    tracker, one = Tracker(), torch.ones(1, dtype=torch.float64)
    tracker.observe(one, 0.1 * one)
    tracker.predict(-0.5 * one)
    assert tracker.error is not None
    assert float(tracker.error) == pytest.approx(0.5)
    assert float(tracker.variance) > 0.1


def test_moves_that_do_nothing_are_seen_although_readings_are_noisy() -> None:
    tracker, one = Tracker(), torch.ones(1, dtype=torch.float64)
    for _ in range(40):
        tracker.observe(-0.05 * one, 0.04**2 * one)
        tracker.predict(0.005 * one)
    assert tracker.error is not None
    assert float(tracker.error) < -0.01


def test_changes_that_come_in_part_only_are_learned_through_noise() -> None:
    """Each step is to bring the error down by a tenth of what is left, and half of that comes."""
    generator, one = torch.Generator().manual_seed(1), torch.ones(1, dtype=torch.float64)
    tracker, truth = Tracker(), -0.4 * one
    for _ in range(25):
        noise = 0.03 * torch.randn(1, dtype=torch.float64, generator=generator)
        tracker.observe(truth + noise, 0.03**2 * one)
        assert tracker.error is not None
        change = -0.1 * tracker.error
        tracker.predict(change)
        truth = truth + 0.5 * change
    assert float(tracker.part) == pytest.approx(0.5, abs=0.25)
    assert float((tracker.error - truth).abs()) < 0.03


def test_a_surprise_makes_the_estimate_follow() -> None:
    tracker, one = Tracker(), torch.ones(1, dtype=torch.float64)
    for _ in range(20):
        tracker.observe(0 * one, 0.01 * one)
    for _ in range(3):
        tracker.observe(one, 0.01 * one)
    assert tracker.error is not None
    assert float(tracker.error) > 0.9


def test_readings_before_and_after_whole_changes_count_as_one() -> None:
    """What noise makes of single changes is not taken for what these are."""
    generator, tracker = torch.Generator().manual_seed(2), Tracker()
    errors, truth = [], torch.zeros(30, dtype=torch.float64)
    for _ in range(8):
        noise = 0.03 * torch.randn(30, dtype=torch.float64, generator=generator)
        tracker.observe(truth + noise, torch.full_like(truth, 0.03**2))
        assert tracker.error is not None
        change = -tracker.error
        tracker.predict(change, is_whole=True)
        truth = truth + change
        errors.append(float(truth.square().mean().sqrt()))
    assert tracker.part.unique().tolist() == [1.0]
    assert errors[-1] < 1.3 * 0.03 / 8**0.5
    assert errors[-1] < float(tracker.variance.mean().sqrt())


def test_what_whole_changes_miss_is_learned_from_all_of_them_together() -> None:
    generator, tracker = torch.Generator().manual_seed(3), Tracker()
    truth = torch.full((30,), 0.3, dtype=torch.float64)
    tracker.observe(truth, torch.full_like(truth, 1e-6))
    tracker.predict(-truth, is_whole=True)
    truth = 0.5 * truth * torch.randn(30, dtype=torch.float64, generator=generator)
    tracker.observe(truth, torch.full_like(truth, 0.02**2))
    assert tracker.missed == pytest.approx(0.25, rel=0.4)
    assert tracker.error is not None
    torch.testing.assert_close(tracker.error, truth, atol=0.01, rtol=0)
    before, change = tracker.variance, -tracker.error
    tracker.predict(change, is_whole=True)
    torch.testing.assert_close(tracker.variance - before, tracker.missed * change.square())
