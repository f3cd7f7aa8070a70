"""What a fit reports while it runs, and what comes out of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lsc_graph.pretraining.reading import Edge, Reading

Report = Callable[["Progress"], None]


@dataclass(frozen=True)
class Progress:
    """Where a fit stands: radii by edge as they are estimated, and the largest distance from a target."""

    iteration: int
    radii: dict[Edge, float]
    largest_error: float
    seconds: float


@dataclass
class Fit:
    """The outcome. `reasons` says of every edge that did not reach its target why.

    `is_chance` is True where radii were left out that weights do move: other points may lead another way.
    """

    values: list[Tensor]
    iterations: int
    is_reached: bool
    seconds: float
    stop_reason: str
    reasons: dict[Edge, str] = field(default_factory=dict)
    history: list[Progress] = field(default_factory=list)
    is_chance: bool = False


def later(report: Report, before: int) -> Report:
    """Reports that count the iterations before."""

    def say(progress: Progress) -> None:
        report(replace(progress, iteration=progress.iteration + before))

    return say


def why_unmoved(reading: Reading) -> str:
    """Why a radius that no unknown moves is where it is."""
    if reading.mean <= 1e-9:
        return "the local Jacobian is zero: the gradient is cut there, and no weight can change that"
    if not reading.is_differentiable:
        return "its derivative is known nowhere: the largest eigenvalue is defective, or nearly so"
    return "no trained weight moves it"


def how_sure(readings: Sequence[Reading], targets: Mapping[Edge, float]) -> str:
    """The numbers of radii that count as being at their targets, though not beyond their standard errors."""
    if not readings:
        return ""
    first = max(readings, key=lambda reading: abs(reading.mean - targets[reading.edge]))
    more = f" (and {len(readings) - 1} more)" if len(readings) > 1 else ""
    off = abs(first.mean - targets[first.edge])
    known = f"{off:.3f} off, known to ± {first.std_error:.3f}{more}"
    return f", as far as samples tell: that of {' -> '.join(first.edge)} is {known}"


def why_missed(
    reading: Reading,
    target: float,
    tolerance: float,
    *,
    share: float = 0.0,
    rival: Edge | None = None,
    steps: tuple[int, float, float] = (0, 0.0, 0.0),
) -> str:
    """Why a radius that can be moved is not at its target.

    Args:
        reading: at fresh points.
        target: where it should be.
        tolerance: how far it may be off.
        share: of the error cannot be removed, to first order, without moving other radii.
        rival: the edge whose radius moves most nearly as this one does.
        steps: how many of the last ones, what they were to change log radius by, what came of them.
    """
    error = reading.mean - target
    values = reading.values.double()
    low, high = torch.quantile(values, torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    scatter = f"over {values.numel()} points its values scatter from {low:.2f} to {high:.2f}"
    off = f"{abs(error):.3f} {'above' if error > 0 else 'below'}"
    if reading.std_error > abs(error) / 2:
        needed = math.ceil(values.numel() * (2 * reading.std_error / tolerance) ** 2)
        known = f"so that the mean is known to {reading.std_error:.3f} only"
        return f"{off}, but {scatter}, {known}: half the tolerance would need {needed} points"
    if share > 0.5 and rival is not None:
        way, other = "lowers" if error > 0 else "raises", " -> ".join(rival)
        return f"{off}: what {way} it moves other radii as well, that of {other} most of all"
    count, meant, came = steps
    if not count:
        return f"{off}: {scatter}, and no step was taken"
    return (
        f"{off} (± {reading.std_error:.3f}): the last {count} steps were to change it by a factor of"
        f" {math.exp(meant):.3g} in all and changed it by {math.exp(came):.3g}; {scatter}"
    )
