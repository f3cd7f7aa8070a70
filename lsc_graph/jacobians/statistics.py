"""From points to statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lsc_graph.jacobians.autocorrelation import covariances, time_correlation
from lsc_graph.results import Statistics


def statistics_of_series(samples: Sequence[Tensor], *, is_timed: bool = True) -> Statistics | None:
    """Statistics of values along the time of independent samples; None for no values.

    The standard error takes the correlation over time into account (`autocorrelation.covariances`):
    samples are independent, steps are not.

    Args:
        samples: one vector [T] for each sample.
        is_timed: whether neighbours in a vector are one step apart, so that a lag has a meaning.
    """
    series = [values.double().flatten() for values in samples if values.numel()]
    if not series:
        return None
    if len({len(values) for values in series}) > 1:
        means = torch.stack([values.mean() for values in series])
        return _summary(torch.cat(series), float(means.std()) / math.sqrt(len(means)), float(len(means)))
    table = torch.stack(series)
    found = covariances(table)
    summary = _summary(table, math.sqrt(found.variance_of_mean), min(found.effective, float(table.numel())))
    return replace(
        summary,
        time_correlation=time_correlation(table) if is_timed else None,
        std_over_time=float(table.mean(0).std()) if is_timed and table.shape[1] > 1 else None,
    )


def _summary(values: Tensor, error: float, effective: float) -> Statistics:
    return Statistics(
        mean=float(values.mean()),
        std_error=error,
        min=float(values.min()),
        max=float(values.max()),
        num_points=values.numel(),
        std=float(values.std()) if values.numel() > 1 else 0.0,
        effective_points=effective,
    )
