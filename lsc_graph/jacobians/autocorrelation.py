"""Autocorrelation over time: honest standard errors, and whether covariance decays (theory section 5)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lsc_graph.results import CovarianceDecay, TimeCorrelation

# Fewer steps than this have no long lags that could be told from short ones.
_LEAST_STEPS = 12
# A correlation at long lags that is smaller than this is of no consequence for a mean.
_SMALL = 0.15
# Long lags must be known to this precision before they are called small.
_NOISE = 0.25
# Spread that is rounding of the eigenvalue solver.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Covariances:
    """Autocovariances by lag [K+1] of S independent series of T values about the mean of each time.

    `variance_of_mean` is that of the mean over all S T values; `effective` is the number of independent
    values with the same variance of their mean.
    """

    by_lag: Tensor
    variance_of_mean: float
    effective: float


def autocovariances(series: Tensor) -> Tensor:
    """Autocovariance at every lag 0..T-1, averaged over samples and times.

    With several samples each time's own mean is subtracted: samples are independent, so the estimate is
    unbiased whatever the correlation over time, and a trend in time is no correlation. With one
    sample its mean over time is subtracted, which biases every lag down by the variance of that mean.

    Args:
        series: [S, T].

    Returns:
        [T], float64.
    """
    values = series.double()
    num_samples, num_steps = values.shape
    centred = values - (values.mean(0) if num_samples > 1 else values.mean())
    padded = torch.fft.rfft(centred, 2 * num_steps)
    sums: Tensor = torch.fft.irfft(padded.abs().square(), 2 * num_steps)[:, :num_steps].sum(0)
    counts = torch.arange(num_steps, 0, -1, dtype=torch.float64)
    return sums / (counts * max(num_samples - 1, 1))


def covariances(series: Tensor) -> Covariances:
    """Autocovariances up to where they are lost in noise, and the variance of the mean that they give.

    The cut is the initial monotone positive sequence of C. Geyer, "Practical Markov Chain Monte Carlo",
    Statistical Science 7, 1992, section 3.3: sums of neighbouring pairs of lags are kept while they are
    positive, each no greater than the one before. Negative correlation is never taken to make the error
    smaller than that of independent values.

    Args:
        series: [S, T], S independent samples.
    """
    raw = autocovariances(series)
    num_samples, num_steps = series.shape
    if float(raw[0]) <= 0:
        return Covariances(raw[:1], 0.0, float(series.numel()))
    kept = _initial_sequence(raw)
    if num_samples == 1:
        kept = kept[: max(1, num_steps // 4)]
    weights = 1 - torch.arange(len(kept), dtype=torch.float64) / num_steps
    weights[1:] *= 2
    variance = float(weights @ kept) / series.numel()
    if num_samples == 1:
        variance /= 1 - float(weights.sum()) / num_steps if num_steps > 1 else 1.0
    variance = max(variance, float(raw[0]) / series.numel())
    return Covariances(kept, variance, float(raw[0]) / variance)


def _initial_sequence(raw: Tensor) -> Tensor:
    """The leading lags of [T] whose pairs have positive and non-increasing sums."""
    kept: list[float] = []
    before = math.inf
    for start in range(0, len(raw), 2):
        pair = [float(value) for value in raw[start : start + 2]]
        total = sum(pair)
        if total <= 0:
            break
        share = min(1.0, before / total)
        kept += [value * share for value in pair]
        before = min(total, before)
    return torch.tensor(kept or [float(raw[0])], dtype=torch.float64)


def time_correlation(series: Tensor) -> TimeCorrelation | None:
    """Correlation at lag 1, how long it lasts, and whether the covariance decays; None for under two steps.

    The verdict looks at lags from T/4 to T/2. Their mean square is compared with what an estimate from so
    many values has when the correlation is over by then (Bartlett's formula): well above it, the covariance
    does not decay over these steps; not above it, it does, provided that the noise is small enough to have
    shown a correlation that matters. One sample shows only whether it decays within that sample: what
    sets samples apart for good is seen from two samples on.

    Args:
        series: [S, T], S independent samples.
    """
    num_samples, num_steps = series.shape
    if num_steps < 2:
        return None
    raw = autocovariances(series)
    size = float(series.abs().mean())
    if math.sqrt(float(raw[0])) <= _ROUNDING * max(size, 1e-30):
        return TimeCorrelation(None, None, None, CovarianceDecay.CONSTANT)
    if num_samples == 1:
        raw = raw + covariances(series).variance_of_mean
    correlation = raw / raw[0]
    below = (correlation < math.exp(-1)).nonzero()
    within = int(below[0]) if len(below) and int(below[0]) <= num_steps // 2 else None
    label, tail = _judged(correlation, num_samples, num_steps)
    return TimeCorrelation(float(correlation[1]), within, tail, label)


def _judged(correlation: Tensor, num_samples: int, num_steps: int) -> tuple[CovarianceDecay, float | None]:
    start, stop = num_steps // 4, num_steps // 2 + 1
    if num_steps < _LEAST_STEPS:
        return CovarianceDecay.UNKNOWN, None
    squares = correlation[:start].square()
    duration = float(2 * squares.sum() - 1)
    pairs = max(num_samples - 1, 1) * (num_steps - (start + stop) / 2)
    noise = duration / pairs
    tail = correlation[start:stop]
    strength = float(tail.square().mean())
    independent = max(1.0, len(tail) / duration)
    if strength > max(noise * (1 + 2 * math.sqrt(2 / independent)), _SMALL**2):
        return CovarianceDecay.FAILS, math.sqrt(strength)
    if math.sqrt(noise) > _NOISE:
        return CovarianceDecay.UNKNOWN, math.sqrt(strength)
    return CovarianceDecay.HOLDS, math.sqrt(strength)
