"""Radii and gains at the points of one kind of step that were seen so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from lsc_graph.jacobians.readings import Reading
from lsc_graph.jacobians.statistics import statistics_of_series
from lsc_graph.results import Statistics
from lsc_graph.spectra.estimate import Estimate


@dataclass
class Points:
    """Values at the points seen so far."""

    estimates: list[Estimate] = field(default_factory=list)
    gain: list[Tensor] = field(default_factory=list)
    norm: list[Tensor] = field(default_factory=list)
    held: list[Tensor] = field(default_factory=list)
    bars: list[Tensor] = field(default_factory=list)
    block: str = ""
    is_timed: bool = True

    @property
    def radius(self) -> list[Tensor]:
        """Radii of the points at which an estimator converged; the others are told in the outcomes."""
        return [estimate.values[estimate.converged] for estimate in self.estimates]

    def add(self, reading: Reading) -> None:
        """Those of one series of points."""
        if reading.estimate is not None:
            self.estimates.append(reading.estimate)
        self.gain.append(reading.gain)
        self.held.append(reading.held)
        if reading.norm is not None:
            self.norm.append(reading.norm)
        if reading.bars is not None:
            self.bars.append(reading.bars)

    def within(self, estimate: Estimate, bars: Tensor) -> Estimate:
        """An estimate of radii of matrices that error bars move by so much, which are noted."""
        self.bars.append(bars)
        return estimate.known_within(bars)

    def statistics(self, which: str) -> Statistics | None:
        return statistics_of_series(getattr(self, which), is_timed=self.is_timed)
