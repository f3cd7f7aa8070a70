"""One edge's mean radius over points, with its standard error and its derivative."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
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

    def without_points(self, num_samples: int) -> Reading:
        """Such a reading where there is no point."""
        sizes = (0,) * num_samples
        return replace(self, values=self.values[:0], derivative=None, sizes=sizes, is_differentiable=False)

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


def of_all(stretches: Sequence[Sequence[Reading]]) -> list[Reading]:
    """Readings of stretches of samples as one for each edge, with every sample in its place.

    An edge may have several readings of the same samples, as at several lags, and none where it has no point.
    """
    by_edge = [_by_edge(stretch) for stretch in stretches if stretch]
    counts = [len(next(iter(own.values())).sizes) for own in by_edge]
    found = []
    for edge in dict.fromkeys(edge for own in by_edge for edge in own):
        like = next(own[edge] for own in by_edge if edge in own)
        parts = [own.get(edge, like.without_points(n)) for own, n in zip(by_edge, counts, strict=True)]
        found.append(replace(joined(parts), is_radius=like.is_radius))
    return found


def _by_edge(readings: Sequence[Reading]) -> dict[Edge, Reading]:
    """Those of each edge as one, sample by sample."""
    found: defaultdict[Edge, list[Reading]] = defaultdict(list)
    for reading in readings:
        found[reading.edge].append(reading)
    return {edge: own[0] if len(own) == 1 else _beside(own) for edge, own in found.items()}


def _beside(readings: Sequence[Reading]) -> Reading:
    """Readings of the same samples as one."""
    samples = [torch.cat(parts) for parts in zip(*(own.by_sample() for own in readings), strict=True)]
    return replace(joined(readings), values=torch.cat(samples), sizes=tuple(map(len, samples)))
