"""Growth predicted from local Jacobians at a few points: the true ones of an edge replaced by stand-ins.

Every predictor is a rule that replaces the Jacobians on the edges of the grid by what it knows of them from a
few steps; the growth that it predicts is that of backpropagation over the replaced edges. None of them sees
the product of the true Jacobians along the trajectory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lsc_graph.jacobians.grid import DensePull, EdgeMap, Pull

# Mean length of the runs of successive steps that are drawn together.
MEAN_RUN = 16
Kind = tuple[str, str, int]
"""Edges that repeat in time: from layer, to layer, steps forward."""


@dataclass(frozen=True)
class Known:
    """The local Jacobians at a few steps: by kind of edge, and by the time of the edge's head."""

    by_kind: Mapping[Kind, Mapping[int, Pull]]
    times: tuple[int, ...]

    @staticmethod
    def of(
        edges: Sequence[EdgeMap], num_points: int | None, num_steps: int | None = None, run: int = 1
    ) -> Known:
        """What is known from `num_points` steps spread evenly over the run (all if None, or if fewer).

        The first and last step are taken only if there are no others: edges end there.

        Args:
            edges: the whole grid.
            num_points: how many steps to take.
            num_steps: take them from so many first steps of the run only.
            run: take so many successive steps at a time.
        """
        every: defaultdict[Kind, dict[int, Pull]] = defaultdict(dict)
        for edge in edges:
            every[kind_of(edge)][edge.head.time] = edge.pull
        steps = min(num_steps or length(edges), length(edges))
        times = _spread(steps, num_points or steps, run)
        kept = {
            kind: {time: pulls[time] for time in times if time in pulls} or _first(pulls)
            for kind, pulls in every.items()
        }
        return Known(kept, times)

    def pulls(self, kind: Kind) -> tuple[Pull, ...]:
        """All that is known of a kind of edge."""
        return tuple(self.by_kind[kind].values())


Rule = Callable[[Known, Sequence[EdgeMap], torch.Generator], list[EdgeMap]]


def kind_of(edge: EdgeMap) -> Kind:
    return edge.tail.layer, edge.head.layer, edge.head.time - edge.tail.time


def length(edges: Sequence[EdgeMap]) -> int:
    """Number of steps of a grid."""
    return max((edge.head.time for edge in edges), default=0) + 1


def _spread(num_steps: int, num_points: int, run: int) -> tuple[int, ...]:
    inner = range(1, num_steps - 1) if num_steps > 2 else range(num_steps)
    count = min(num_points, len(inner))
    if run == 1 or count == len(inner):
        return tuple(inner[int((index + 0.5) * len(inner) / count)] for index in range(count))
    num_runs = max(1, count // run)
    length = count // num_runs
    starts = [int((index + 0.5) * len(inner) / num_runs - length / 2) for index in range(num_runs)]
    return tuple(inner[start + offset] for start in starts for offset in range(length))


def _first(pulls: Mapping[int, Pull]) -> dict[int, Pull]:
    time = min(pulls)
    return {time: pulls[time]}


def resampled(known: Known, edges: Sequence[EdgeMap], generator: torch.Generator) -> list[EdgeMap]:
    """At each step the local Jacobians of a known step drawn at random, all layers' of the same one.

    Exact where steps are independent of each other, and where they are all alike; what correlates them
    over time is left out.
    """
    return _drawn(
        known, edges, torch.randint(0, len(known.times), (length(edges),), generator=generator).tolist()
    )


def resampled_runs(known: Known, edges: Sequence[EdgeMap], generator: torch.Generator) -> list[EdgeMap]:
    """The same in runs of successive steps, of random lengths with mean `MEAN_RUN`, whose correlation stays.

    The stationary bootstrap of D. N. Politis and J. P. Romano, "The stationary bootstrap", Journal of the
    American Statistical Association 1994.
    """
    numbers = {time: number for number, time in enumerate(known.times)}
    fresh = torch.randint(0, len(known.times), (length(edges),), generator=generator).tolist()
    ends = (torch.rand(length(edges), generator=generator) < 1 / MEAN_RUN).tolist()
    draws: list[int] = []
    for number, is_end in zip(fresh, ends, strict=True):
        following = numbers.get(known.times[draws[-1]] + 1) if draws and not is_end else None
        draws.append(number if following is None else following)
    return _drawn(known, edges, draws)


def _drawn(known: Known, edges: Sequence[EdgeMap], draws: Sequence[int]) -> list[EdgeMap]:
    """At each step the local Jacobians of the known step of the number drawn for it."""
    chosen = []
    for edge in edges:
        pulls = known.by_kind[kind_of(edge)]
        time = known.times[draws[edge.head.time]]
        others = tuple(pulls.values())
        pull = pulls[time] if time in pulls else others[draws[edge.head.time] % len(others)]
        chosen.append(EdgeMap(edge.tail, edge.head, pull))
    return chosen


def mean_jacobian(known: Known, edges: Sequence[EdgeMap], generator: torch.Generator) -> list[EdgeMap]:
    """At each step the mean of the known Jacobians: what does not fluctuate, and nothing else."""
    return _one_for_each_kind(known, edges, _mean)


def mean_and_fluctuation(known: Known, edges: Sequence[EdgeMap], generator: torch.Generator) -> list[EdgeMap]:
    """The mean Jacobian, and independent noise of each element's variance.

    The covariance of the cotangent then obeys C <- E[M]^T C E[M] + diag(Var[M]^T diag C), of which
    backpropagation with drawn noise is an unbiased sample.
    """

    def both(pulls: Sequence[Pull]) -> Pull:
        matrices = _matrices(pulls)
        mean, variance = matrices.mean(0), matrices.var(0, unbiased=len(pulls) > 1)
        return lambda v: v @ mean + (v.square() @ variance).sqrt() * _normal(v, mean.shape[1], generator)

    return _one_for_each_kind(known, edges, both)


def _normal(like: Tensor, width: int, generator: torch.Generator) -> Tensor:
    return torch.randn(len(like), width, generator=generator, dtype=like.dtype)


def mean_field(known: Known, edges: Sequence[EdgeMap], generator: torch.Generator) -> list[EdgeMap]:
    """Mean field by vector (theory section 4): second moments of each unit through E[M o M].

    The vectors on these edges are second moments.
    """
    return _one_for_each_kind(known, edges, _mean_square)


def _mean(pulls: Sequence[Pull]) -> Pull:
    matrices = [pull for pull in pulls if isinstance(pull, DensePull)]
    if len(matrices) == len(pulls):
        return DensePull(_summed(matrices, power=1) / len(pulls))
    return lambda v: torch.stack([pull(v) for pull in pulls]).mean(0)


def _mean_square(pulls: Sequence[Pull]) -> Pull:
    matrices = [pull for pull in pulls if isinstance(pull, DensePull)]
    return DensePull(_summed(matrices, power=2) / len(matrices))


def _summed(pulls: Sequence[DensePull], power: int) -> Tensor:
    """The sum of all matrices, or of their elements' squares: one after another, as all may be large."""
    total = torch.zeros_like(pulls[0].matrix)
    for pull in pulls:
        total += pull.matrix**power
    return total


def _matrices(pulls: Sequence[Pull]) -> Tensor:
    return torch.stack([pull.matrix for pull in pulls if isinstance(pull, DensePull)])


def _one_for_each_kind(
    known: Known, edges: Sequence[EdgeMap], combine: Callable[[Sequence[Pull]], Pull]
) -> list[EdgeMap]:
    combined = {kind: combine(known.pulls(kind)) for kind in known.by_kind}
    return [EdgeMap(edge.tail, edge.head, combined[kind_of(edge)]) for edge in edges]


def is_dense(edges: Sequence[EdgeMap]) -> bool:
    """Whether every edge has its matrix: the rules that look at single elements need that."""
    return all(isinstance(edge.pull, DensePull) for edge in edges)


RULES: Mapping[str, Rule] = {
    "resampled": resampled,
    "resampled_runs": resampled_runs,
    "mean_jacobian": mean_jacobian,
    "mean_and_fluctuation": mean_and_fluctuation,
    "mean_field": mean_field,
}
DRAWS = frozenset({"resampled", "resampled_runs"})
"""Predictors that draw at random once for all cotangents."""
NEEDS_ELEMENTS = frozenset({"mean_and_fluctuation", "mean_field"})
SECOND_MOMENTS = frozenset({"mean_field"})
"""Predictors whose edges carry the second moments of a cotangent's elements, not the cotangent."""
