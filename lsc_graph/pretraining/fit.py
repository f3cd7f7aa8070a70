"""What a fit reports while it runs, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

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


def why_missed(error: float, share: float) -> str:
    """Why a radius that can be moved is not at its target; `share` of the error cannot be removed."""
    side = "above" if error > 0 else "below"
    if share > 0.5:
        return f"{abs(error):.3f} {side}: the weights that move it move other radii as well"
    return f"{abs(error):.3f} {side}: not reached in the iterations given"
