"""What a fit meant to do to each radius in its last iterations, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lsc_graph.pretraining.reading import Edge

_MOST = 12
# So many steps that were to change a log radius by so much, and did so by less than this share, failed.
_STILL, _MEANT, _CAME = 5, 1.0, 0.1


@dataclass
class Trail:
    """Log radii as they were read, and the changes of them that were meant after each reading."""

    logs: list[dict[Edge, float]] = field(default_factory=list)
    plans: list[dict[Edge, float]] = field(default_factory=list)

    def read(self, logs: Mapping[Edge, float]) -> None:
        """A reading, after the last step."""
        self.logs = [*self.logs, dict(logs)][-_MOST - 1 :]

    def plan(self, changes: Mapping[Edge, float]) -> None:
        """A step, with the changes that derivatives predict."""
        self.plans = [*self.plans, dict(changes)][-_MOST:]

    def outcome(self, edge: Edge, count: int = _MOST) -> tuple[int, float, float]:
        """Of the last steps, at most `count`: how many, what they meant in all, what came of them."""
        num_steps = min(count, len(self.plans), len(self.logs) - 1)
        while num_steps > 0 and edge not in self.logs[-1 - num_steps]:
            num_steps -= 1
        if num_steps <= 0 or edge not in self.logs[-1]:
            return 0, 0.0, 0.0
        meant = sum(plan.get(edge, 0.0) for plan in self.plans[-num_steps:])
        return num_steps, meant, self.logs[-1][edge] - self.logs[-1 - num_steps][edge]

    def stands_still(self, edge: Edge) -> bool:
        """Whether steps that were to move a radius a long way did not."""
        num_steps, meant, came = self.outcome(edge, _STILL)
        return num_steps == _STILL and abs(meant) > _MEANT and came / meant < _CAME

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"logs": self.logs, "plans": self.plans}
