"""What a verdict is drawn from: measured growth, read with its errors (theory section 4).

All growth is in decades (log10).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Literal

from lsc_graph.results import Growth, GrowthPoint

BAND_DECADES = 1.0
"""A gradient that stays within a factor of 10 of where it started counts as kept."""
NEUTRAL = 0.02
"""One path's product counts as kept along time if its factor per step exceeds 1 by no more than this."""
DRIFT_DECADES = (0.1, 0.5)
"""Less drift than the first is noise; more than the second is growth, however slow per step."""
COUNT_BEND = 0.4
"""The path count grows slower than exponentially over time if the second half of the steps adds no more than
this part of what the first half adds to its log. An exponential adds as much again (1); a rectangular grid
little for T >> L, .38 for T = 2L, .45 for T = L, and towards 1 for T << L."""
MEASURED_BEND = 0.6
"""The same for the measured growth, which follows the count with fluctuations."""
CRITICAL = 0.05
"""A stability index this close to 1 counts as critical."""
NUM_ERRORS = 2.0
"""A comparison is decided if it holds this many standard errors to either side."""
MIN_POINTS = 4
"""Fewer points than this show no shape of a curve."""
FEW_STEPS = 8
"""Over fewer steps than this, slow growth or decay does not show."""

Trend = Literal["grows", "fades", "stays"]


@dataclass(frozen=True)
class Evidence:
    growth: Growth
    p: float
    index: float | None
    num_kinds: int
    num_layers: int
    num_steps: int

    @cached_property
    def points(self) -> tuple[GrowthPoint, ...]:
        """The cells other than the last from which some path leads to the end."""
        return tuple(
            point
            for point in self.growth.table
            if (point.dt or point.dl)
            and (point.log10_num_paths is not None or point.measured_log10 is not None)
        )

    @cached_property
    def far(self) -> GrowthPoint:
        """The farthest of them."""
        return max(self.points, key=lambda point: (point.dl, point.dt))

    @cached_property
    def end(self) -> GrowthPoint:
        """The cell by which fading is judged: the farthest, or a valley below the band on the way to it.

        A valley along time shows where steps are no distance: in a bidirectional stack the first step of the
        forward layer is one edge away from the last state of the backward layer above, and the cells
        in the middle of the sequence are the farthest. (On a plain grid log growth is concave in dt.)
        """
        row = self.row(self.far.dl)
        lowest = min(row, key=level)
        has_valley = not is_below(row[0]) and not is_below(self.far) and is_below(lowest)
        return lowest if has_valley else self.far

    @cached_property
    def peak(self) -> GrowthPoint:
        """Where the gradient is largest."""
        return max(self.points, key=level)

    @cached_property
    def trends(self) -> tuple[Trend, ...]:
        """What the gradient does by the lowest, the middle and the highest reading."""
        return tuple(self._trend(errors) for errors in (-NUM_ERRORS, 0.0, NUM_ERRORS))

    def _trend(self, errors: float) -> Trend:
        top = max(self._reading(point, errors) for point in self.points)
        return "grows" if top > BAND_DECADES else trend_of(self._reading(self.end, errors))

    def _reading(self, point: GrowthPoint, errors: float) -> float:
        """The measured growth, taken `errors` standard errors higher."""
        share = (point.dt + point.dl) / (self.far.dt + self.far.dl)
        return level(point) + errors * (self.growth.std_error or 0.0) * math.sqrt(share)

    @property
    def decisive(self) -> GrowthPoint:
        """The cell that decides the verdict: the peak of what grows, else the end."""
        return self.peak if self.trends[1] == "grows" else self.end

    def row(self, dl: int) -> list[GrowthPoint]:
        """The cells dl layers below the end, by steps."""
        return sorted((point for point in self.points if point.dl == dl), key=lambda point: point.dt)

    def row_to_end(self) -> list[GrowthPoint]:
        """The cells on the way to the end along time."""
        return [point for point in self.row(self.end.dl) if point.dt <= self.end.dt]

    def column(self, dt: int) -> list[GrowthPoint]:
        """The cells dt steps before the end, by layers."""
        return sorted((point for point in self.points if point.dt == dt), key=lambda point: point.dl)


def level(point: GrowthPoint) -> float:
    """Measured growth, -inf for a gradient of zero."""
    return -math.inf if point.measured_log10 is None else point.measured_log10


def count(point: GrowthPoint) -> float:
    return point.log10_num_paths or 0.0


def local(point: GrowthPoint) -> float:
    """log10 of the rms norm of one path's product: growth less the number of paths and interference."""
    shared = 0.5 * (1.0 + (point.coherence or 0.0)) * count(point)
    return level(point) - shared


def nonzero(line: Sequence[GrowthPoint]) -> list[GrowthPoint]:
    return [point for point in line if point.measured_log10 is not None]


def is_below(point: GrowthPoint) -> bool:
    return level(point) < -BAND_DECADES


def trend_of(decades: float) -> Trend:
    if abs(decades) <= BAND_DECADES:
        return "stays"
    return "grows" if decades > 0 else "fades"


def halves(row: Sequence[GrowthPoint], of: Callable[[GrowthPoint], float]) -> tuple[float, float]:
    """Decades added in the earlier and in the later half of the steps."""
    start, middle, end = (of(point) for point in (row[0], row[len(row) // 2], row[-1]))
    return middle - start, end - middle


def bends(halves: tuple[float, float], most: float) -> bool:
    early, late = halves
    return late <= max(0.0, most * early)


def drifts_upwards(first: GrowthPoint, last: GrowthPoint) -> bool:
    """Whether one path's product grows between two cells of a row."""
    noise, most = DRIFT_DECADES
    allowed = min(most, max(noise, (last.dt - first.dt) * math.log10(1.0 + NEUTRAL)))
    return last.dt > first.dt and local(last) - local(first) > allowed


def below_from(evidence: Evidence) -> GrowthPoint:
    """From where on the gradient stays below the band: along time, or along depth if it always is there."""
    row = evidence.row_to_end()
    below = [*takewhile(is_below, reversed(row))]
    if len(below) < len(row):
        return below[-1]
    return [*takewhile(is_below, reversed(evidence.column(row[0].dt)))][-1]


def late_rate(evidence: Evidence) -> tuple[float, str]:
    """Decades per step in the farther half of the steps; per layer where steps are too few."""
    row, column = (nonzero(line) for line in (evidence.row_to_end(), evidence.column(evidence.end.dt)))
    line, unit = (row, "step") if len(row) >= MIN_POINTS else (column, "layer")
    if not line:
        return 0.0, unit
    middle, end = line[len(line) // 2], line[-1]
    edges = end.dt - middle.dt + end.dl - middle.dl
    return (level(end) - level(middle)) / edges if edges else 0.0, unit
