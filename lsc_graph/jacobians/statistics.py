"""From points to statistics."""

from __future__ import annotations

import math

from torch import Tensor

from lsc_graph.results import Statistics


def statistics_of(points: Tensor) -> Statistics | None:
    """Mean, standard error of the mean, and range of a vector of points; None for no points.

    The standard error treats the points as independent; along one trajectory they are not quite.
    """
    count = points.numel()
    if count == 0:
        return None
    values = points.double().flatten()
    spread = float(values.std()) / math.sqrt(count) if count > 1 else 0.0
    return Statistics(float(values.mean()), spread, float(values.min()), float(values.max()), count)
