"""Statistics over points."""

from __future__ import annotations

import pytest
import torch

from lsc_graph.jacobians.statistics import statistics_of_series


def test_series_of_one_step_are_independent_points() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 6.0])
    found = statistics_of_series(list(values[:, None]))
    assert found is not None
    assert (found.mean, found.min, found.max, found.num_points) == (3.0, 1.0, 6.0, 4)
    assert found.std_error == pytest.approx((14 / 3) ** 0.5 / 2)
    assert found.time_correlation is None


def test_one_point_has_no_spread_and_no_points_have_no_statistics() -> None:
    single = statistics_of_series([torch.tensor([2.0])])
    assert single is not None
    assert (single.mean, single.std, single.std_error) == (2.0, 0.0, 0.0)
    assert statistics_of_series([torch.tensor([])]) is None


def test_samples_that_differ_for_good_are_few_points_however_long_they_are() -> None:
    offsets = torch.randn(8, 1, generator=torch.Generator().manual_seed(0))
    found = statistics_of_series(list(offsets.expand(8, 50)))
    assert found is not None
    assert found.std_error == pytest.approx(float(offsets.std()) / 8**0.5, rel=1e-5)
    assert found.effective_points == pytest.approx(8, rel=1e-5)
    assert found.num_points == 400
    assert found.std_over_time == pytest.approx(0.0, abs=1e-6)


def test_samples_of_different_length_count_as_one_point_each() -> None:
    found = statistics_of_series([torch.ones(3), torch.full((5,), 2.0)])
    assert found is not None
    assert found.std_error == pytest.approx(0.5)
    assert found.num_points == 8
