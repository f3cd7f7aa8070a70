"""Rows of local Jacobians of one edge at chosen steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

Times = Sequence[int] | Tensor
Sources = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class EdgeRows:
    """Pulled rows of one edge: `rows` is [P, R, n_source], `targets` [P] indexes into the chosen times.

    The edge is in time where `source` and `target` are the same layer. One that starts `lag` steps before its
    target ends at none of so many first steps. Where `sources` are given, the times by the one that they lead
    to, there are as many points for each chosen time as lead to any: those beyond its own do not exist.
    """

    source: str
    target: str
    targets: tuple[int, ...]
    rows: Tensor
    lag: int = 0
    sources: Sources = ()

    def existing(self, times: Sequence[int], steps: range) -> EdgeRows:
        """The points that exist at chosen times, of a layer that takes such steps."""
        return self.at(self.positions(times, steps))

    def positions(self, times: Sequence[int], steps: range) -> list[int]:
        """Which points those are."""
        if self.sources:
            width = len(self.targets) // len(times)
            counts = [len(self.sources[time]) for time in times]
            return [width * at + number for at, own in enumerate(counts) for number in range(own)]
        first = set(steps[: self.lag])
        return [position for position, time in enumerate(times) if time not in first]

    def at(self, positions: Sequence[int]) -> EdgeRows:
        """Some of the points."""
        targets = tuple(self.targets[position] for position in positions)
        return replace(self, targets=targets, rows=chosen(self.rows, positions))


def chosen(rows: Tensor, positions: Sequence[int]) -> Tensor:
    """Some of the points, without a copy where they are a stretch."""
    start = positions[0] if positions else 0
    is_stretch = list(positions) == list(range(start, start + len(positions)))
    return rows[start : start + len(positions)] if is_stretch else rows[list(positions)]
