"""One edge's mean radius over points, with its standard error and its derivative."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from lsc_graph.errors import AnalysisError

Edge = tuple[str, str]
_MIN_GROUPS, _FEW_GROUPS = 4, 8


class Kind(StrEnum):
    """Along which axis of the grid an edge runs."""

    TIME = "time"
    DEPTH = "depth"


class NotFiniteError(AnalysisError):
    """Training has led to values that are not finite."""


@dataclass(frozen=True)
class Reading:
    """One edge's radius (its gain, where the block is not square) over points.

    `values` is [P], float64, sample after sample: `sizes` says how many each has. `derivative` is a scalar
    whose gradient with respect to the parameters is that of the mean of `values`; None if none was asked for.
    `is_differentiable` is False where no point has a derivative that can be trusted.
    """

    edge: Edge
    values: Tensor
    is_radius: bool
    derivative: Tensor | None
    sizes: tuple[int, ...] = ()
    is_differentiable: bool = True

    @property
    def kind(self) -> Kind:
        return Kind.TIME if self.edge[0] == self.edge[1] else Kind.DEPTH

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    def by_sample(self) -> tuple[Tensor, ...]:
        """The values of each sample."""
        return torch.split(self.values, list(self.sizes))

    @property
    def std_error(self) -> float:
        """Of the mean: by how pairs of samples differ, or of few ones as if all points were independent.

        A pair sees a sequence evenly, so that drift along it is no noise; see `spread_times`.
        """
        samples = self.by_sample()
        pairs = [torch.cat(samples[start : start + 2]) for start in range(0, len(samples), 2)]
        pairs = [pair for pair in pairs if len(pair)]
        if len(pairs) < _MIN_GROUPS:
            return _std_error(self.values)
        # Of a ratio of sums over groups: those with more points count for more.
        mean = self.values.mean()
        sums = torch.stack([(pair - mean).sum() for pair in pairs])
        count = len(pairs)
        spread = float(sums.norm()) / self.values.numel() * math.sqrt(count / (count - 1))
        # The variance of a t distribution: few groups may agree by chance, and very few often do.
        known = spread * math.sqrt((count - 1) / (count - 3))
        return known if count >= _FEW_GROUPS else max(known, _std_error(self.values))


def _std_error(values: Tensor) -> float:
    count = values.numel()
    return float(values.std()) / math.sqrt(count) if count > 1 else 0.0


def joined(readings: Sequence[Reading]) -> Reading:
    """Readings of one edge from several samples as one; each sample's derivative counts by its points."""
    values = torch.cat([reading.values for reading in readings])
    parts = [r.derivative * (r.values.numel() / values.numel()) for r in readings if r.derivative is not None]
    derivative = torch.stack(parts).sum() if parts else None
    sizes = tuple(size for reading in readings for size in reading.sizes)
    is_differentiable = any(reading.is_differentiable for reading in readings)
    return Reading(readings[0].edge, values, readings[0].is_radius, derivative, sizes, is_differentiable)
