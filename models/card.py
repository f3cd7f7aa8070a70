"""What is known exactly about a reference model before anything measures it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from math import comb

import onnx

from lsc_graph.errors import UsageError
from lsc_graph.results import Form


class Topology(StrEnum):
    """Who reads whom at equal times; in time every layer reads itself one step before."""

    CHAIN = "each layer reads the one below"
    SKIP = "each layer reads all layers below"
    BIDIRECTIONAL = "both directions of a depth read both directions of the depth below"


@dataclass(frozen=True)
class Card:
    """Exact facts of one reference model.

    Args:
        name: the model's name in the registry.
        summary: one sentence for people.
        forms: how its recurrence is written; empty for a feed-forward model.
        num_layers: layers on the grid; the two directions of a bidirectional layer count as two.
        state_sizes: elements of each layer's state for one sample, in depth order, forward before reverse.
        topology: the layers' connections.
        num_steps: the number of steps where it is fixed in the file, else None.
        is_differentiable: False where a threshold cuts every gradient between steps and layers; the facts
            below are then those of the true derivative, which is zero there, without any surrogate.
        time_radius: spectral radius of M_time of each layer at any input; None where it depends on the input.
        time_gain: gain of M_time, likewise.
        depth_radius: spectral radius of M_depth between layers l and l + 1, likewise.
        depth_gain: gain of M_depth, likewise.
    """

    name: str
    summary: str
    forms: tuple[Form, ...]
    num_layers: int
    state_sizes: tuple[int, ...]
    topology: Topology = Topology.CHAIN
    num_steps: int | None = None
    is_differentiable: bool = True
    time_radius: tuple[float, ...] | None = None
    time_gain: tuple[float, ...] | None = None
    depth_radius: tuple[float, ...] | None = None
    depth_gain: tuple[float, ...] | None = None

    def num_gradient_paths(self, num_steps: int) -> int:
        """Paths on the grid from the first layer's first state to the last layer's last.

        With two directions: from both of the least depth to both of the greatest; a reverse layer's
        first state is at the last time, its last one at time 0.

        Raises:
            UsageError: the model does not run for this number of steps.
        """
        fixed = self.num_steps if self.forms else 1
        if num_steps < 1 or fixed not in (None, num_steps):
            raise UsageError(
                "The model does not run for this number of steps",
                where=self.name,
                got=str(num_steps),
                expected="1 or more" if fixed is None else str(fixed),
            )
        if self.topology is Topology.BIDIRECTIONAL:
            return bidirectional_paths(self.num_layers // 2, num_steps)
        count = skip_paths if self.topology is Topology.SKIP else chain_paths
        return count(self.num_layers, num_steps)


@dataclass(frozen=True)
class Exhibit:
    """A model and its card, made from the same weights."""

    model: onnx.ModelProto
    card: Card


def chain_paths(num_layers: int, num_steps: int) -> int:
    """C(T-1 + L-1, L-1): the orders of T-1 steps in time and L-1 in depth."""
    return comb(num_steps - 1 + num_layers - 1, num_layers - 1)


def skip_paths(num_layers: int, num_steps: int) -> int:
    """Sum over k depth edges: C(L-2, k-1) ways to climb L-1 levels, at C(T-1+k, k) choices of times."""
    if num_layers == 1:
        return 1
    jumps = range(1, num_layers)
    return sum(comb(num_layers - 2, k - 1) * comb(num_steps - 1 + k, k) for k in jumps)


def bidirectional_paths(depth: int, num_steps: int) -> int:
    """By adding up along time, once per depth: 4 T for two bidirectional layers."""
    forward = reverse = [1] * num_steps
    for _ in range(depth - 1):
        below = [a + b for a, b in zip(forward, reverse, strict=True)]
        forward, reverse = _running_sums(below), _running_sums(reversed(below))[::-1]
    return forward[-1] + reverse[0]


def _running_sums(counts: Iterable[int]) -> list[int]:
    return list(accumulate(counts))
