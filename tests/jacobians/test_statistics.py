"""Statistics over points."""

from __future__ import annotations

import pytest
import torch

from lsc_graph.jacobians.statistics import statistics_of


def test_mean_range_and_standard_error_of_the_mean() -> None:
    found = statistics_of(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert found is not None
    assert (found.mean, found.min, found.max, found.num_points) == (3.0, 1.0, 6.0, 4)
    assert found.std_error == pytest.approx((14 / 3) ** 0.5 / 2)


def test_one_point_has_no_spread_and_no_points_have_no_statistics() -> None:
    single = statistics_of(torch.tensor([2.0]))
    assert single is not None
    assert single.std_error == 0.0
    assert statistics_of(torch.tensor([])) is None
