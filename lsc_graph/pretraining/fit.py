"""What a fit reports while it runs, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lsc_graph.pretraining.readings import Edge, Reading

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
    """The outcome. `reasons` says of every edge that did not reach its target why."""

    values: list[Tensor]
    iterations: int
    is_reached: bool
    seconds: float
    stop_reason: str
    reasons: dict[Edge, str] = field(default_factory=dict)
    history: list[Progress] = field(default_factory=list)


def why_unmoved(reading: Reading) -> str:
    """Why a radius that no unknown moves is where it is."""
    if reading.mean <= 1e-9:
        return "the local Jacobian is zero: the gradient is cut there, and no weight can change that"
    return "no trained weight moves it"


def why_missed(reading: Reading, target: float, share: float) -> str:
    """Why a radius that can be moved is not at its target; `share` of the error cannot be removed."""
    error = reading.mean - target
    values = reading.values.double()
    low, high = torch.quantile(values, torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    scatter = f"over {values.numel()} points its values scatter from {low:.2f} to {high:.2f}"
    if reading.std_error > abs(error) / 2:
        return f"{scatter}, so that the mean is known to {reading.std_error:.3f} only"
    off = f"{abs(error):.3f} {'above' if error > 0 else 'below'}"
    if share > 0.5:
        return f"{off}: the weights that move it move other radii as well"
    return f"{off}: {scatter}, and steps overshoot or fall short by as much"
