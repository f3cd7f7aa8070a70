"""Autocorrelation: closed forms of the AR(1) process, and coverage of the standard error by simulation."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from lsc_graph.jacobians.autocorrelation import autocovariances, covariances, time_correlation
from lsc_graph.results import CovarianceDecay


def ar1(
    phi: float, num_samples: int, num_steps: int, generator: torch.Generator, *, offset: float = 0.0
) -> Tensor:
    """Stationary unit-variance AR(1) series; `offset` is the share of variance that is fixed per sample."""
    noise = torch.randn(num_samples, num_steps, generator=generator, dtype=torch.float64)
    steps = [noise[:, 0]]
    for step in range(1, num_steps):
        steps.append(phi * steps[-1] + math.sqrt(1 - phi**2) * noise[:, step])
    fixed = torch.randn(num_samples, 1, generator=generator, dtype=torch.float64)
    return math.sqrt(1 - offset) * torch.stack(steps, 1) + math.sqrt(offset) * fixed


def variance_of_mean(phi: float, num_samples: int, num_steps: int) -> float:
    """Of an AR(1) process, exactly."""
    lags = range(1, num_steps)
    return (1 + 2 * sum((1 - k / num_steps) * phi**k for k in lags)) / (num_samples * num_steps)


def test_autocovariances_equal_the_sums_over_pairs() -> None:
    series = ar1(0.6, 3, 7, torch.Generator().manual_seed(0))
    centred = series - series.mean(0)
    for lag, found in enumerate(autocovariances(series)):
        pairs = [centred[s, t] * centred[s, t + lag] for s in range(3) for t in range(7 - lag)]
        assert float(found) == pytest.approx(sum(map(float, pairs)) / (2 * (7 - lag)))


def test_a_trend_in_time_is_no_correlation() -> None:
    series = ar1(0.3, 6, 40, torch.Generator().manual_seed(1))
    trend = 5 * torch.linspace(0, 1, 40, dtype=torch.float64)
    torch.testing.assert_close(autocovariances(series), autocovariances(series + trend))


@pytest.mark.parametrize("num_samples", [4, 16])
@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9, 0.97])
def test_the_variance_of_the_mean_is_that_of_the_process(phi: float, num_samples: int) -> None:
    generator = torch.Generator().manual_seed(0)
    found = [covariances(ar1(phi, num_samples, 48, generator)) for _ in range(300)]
    exact = variance_of_mean(phi, num_samples, 48)
    mean = sum(own.variance_of_mean for own in found) / len(found)
    assert mean == pytest.approx(exact, rel=0.3)
    effective = sorted(own.effective for own in found)[150]
    assert effective == pytest.approx(1 / exact, rel=0.5)


@pytest.mark.parametrize(("phi", "offset"), [(0.0, 0.0), (0.5, 0.0), (0.9, 0.0), (0.3, 0.3)])
def test_the_standard_error_covers_the_truth_as_often_as_it_says(phi: float, offset: float) -> None:
    generator = torch.Generator().manual_seed(3)
    hits = naive = 0
    for _ in range(400):
        series = ar1(phi, 16, 31, generator, offset=offset)
        mean = abs(float(series.mean()))
        hits += mean < 1.96 * math.sqrt(covariances(series).variance_of_mean)
        naive += mean < 1.96 * float(series.std()) / math.sqrt(series.numel())
    assert 0.90 <= hits / 400 <= 0.99
    if phi == 0.9 or offset:
        assert naive / 400 < 0.75  # points taken as independent


def test_one_long_sample_has_a_standard_error_too() -> None:
    generator = torch.Generator().manual_seed(2)
    found = [covariances(ar1(0.8, 1, 400, generator)).variance_of_mean for _ in range(200)]
    assert sum(found) / 200 == pytest.approx(variance_of_mean(0.8, 1, 400), rel=0.3)


def test_negative_correlation_does_not_make_the_error_smaller() -> None:
    series = ar1(-0.6, 8, 60, torch.Generator().manual_seed(0))
    found = covariances(series)
    assert found.variance_of_mean == pytest.approx(float(autocovariances(series)[0]) / 480)


@pytest.mark.parametrize(
    ("phi", "offset", "num_steps", "expected"),
    [
        (0.0, 0.0, 31, CovarianceDecay.HOLDS),
        (0.5, 0.0, 31, CovarianceDecay.HOLDS),
        (0.9, 0.0, 128, CovarianceDecay.HOLDS),
        (0.98, 0.0, 31, CovarianceDecay.FAILS),
        (0.0, 0.5, 31, CovarianceDecay.FAILS),
        (0.5, 0.0, 8, CovarianceDecay.UNKNOWN),
    ],
)
def test_the_verdict_on_decaying_covariance(
    phi: float, offset: float, num_steps: int, expected: CovarianceDecay
) -> None:
    generator = torch.Generator().manual_seed(5)
    outcomes: Counter[CovarianceDecay] = Counter()
    for _ in range(50):
        found = time_correlation(ar1(phi, 16, num_steps, generator, offset=offset))
        assert found is not None
        outcomes[found.decaying_covariance] += 1
    assert outcomes[expected] >= 45


def test_lag_one_and_the_decay_time_are_those_of_the_process() -> None:
    found = time_correlation(ar1(0.8, 64, 200, torch.Generator().manual_seed(0)))
    assert found is not None
    assert found.lag_1 == pytest.approx(0.8, abs=0.03)
    assert found.decay_steps in (4, 5, 6)  # 0.8^k < 1/e from k = 5 on


def test_a_constant_has_no_covariance_and_one_step_no_lag() -> None:
    found = time_correlation(torch.full((4, 20), 0.7))
    assert found is not None
    assert found.decaying_covariance is CovarianceDecay.CONSTANT
    assert covariances(torch.full((4, 20), 0.7)).variance_of_mean == 0
    assert time_correlation(torch.randn(4, 1)) is None
