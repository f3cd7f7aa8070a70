"""Predicted growth, collected sample by sample as the measured growth is."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from lsc_graph.grid.unroll import GridNode
from lsc_graph.jacobians.grid import EdgeMap
from lsc_graph.jacobians.growth import backpropagate, log10_isotropic, log10_rms
from lsc_graph.jacobians.predictors import (
    DRAWS,
    NEEDS_ELEMENTS,
    RULES,
    SECOND_MOMENTS,
    Known,
    is_dense,
)

# Independent draws of what a predictor draws, for each sample.
NUM_DRAWS = 2
IN_AUDITS = ("resampled_runs", "mean_field")


class Predictions:
    """Backpropagates over grids whose local Jacobians a predictor has replaced.

    Args:
        names: which predictors, of `predictors.RULES`.
        num_points: how many steps of a sample they are told the local Jacobians of, by default all,
        num_steps: spread over so many first steps of it; by default over the whole run.
        run: so many successive ones at a time.
    """

    def __init__(
        self,
        names: Sequence[str] = IN_AUDITS,
        num_points: int | None = None,
        num_steps: int | None = None,
        run: int = 1,
    ) -> None:
        self._names, self._told = names, (num_points, num_steps, run)
        self._lengths: dict[str, defaultdict[GridNode, list[Tensor]]] = {}

    def add(
        self,
        edges: Sequence[EdgeMap],
        order: Sequence[GridNode],
        start: Mapping[GridNode, Tensor],
        generator: torch.Generator,
    ) -> None:
        """One sample's grid of local Jacobians, and isotropic cotangents [K, n] at its last states."""
        reference = log10_isotropic(start)
        known = Known.of(edges, *self._told)
        with_elements = is_dense(edges)
        for name in self._names:
            if name in NEEDS_ELEMENTS and not with_elements:
                continue
            record = self._lengths.setdefault(name, defaultdict(list))
            for part in _parts(start, NUM_DRAWS if name in DRAWS else 1):
                found = log10_lengths(name, RULES[name](known, edges, generator), order, part)
                for node in order:
                    reached = found[node] - reference if node in found else torch.tensor([-math.inf])
                    record[node].append(reached)

    def log10(self, name: str, nodes: Iterable[GridNode]) -> float | None:
        """log10 of the growth from the given nodes that a predictor expects; None if that is 0 or unknown."""
        if name not in self._lengths:
            return None
        value = log10_rms(torch.cat([length for node in nodes for length in self._lengths[name][node]]))
        return value if math.isfinite(value) else None


def log10_lengths(
    name: str, edges: Sequence[EdgeMap], order: Sequence[GridNode], start: Mapping[GridNode, Tensor]
) -> dict[GridNode, Tensor]:
    """log10 of lengths [K] at each node that the gradient reaches over a predictor's edges."""
    if name not in SECOND_MOMENTS:
        return {
            node: own.log10_norm
            for node, own in backpropagate(edges, order, start, with_vectors=False).items()
        }
    found = backpropagate(edges, order, {node: v.double().square() for node, v in start.items()})
    return {node: (own.unit.sum(1).log10() + own.log10_norm) / 2 for node, own in found.items()}


def _parts(start: Mapping[GridNode, Tensor], count: int) -> Iterator[dict[GridNode, Tensor]]:
    """The cotangents [K, n] in `count` groups."""
    split = {node: torch.tensor_split(vectors, count) for node, vectors in start.items()}
    for index in range(count):
        yield {node: parts[index] for node, parts in split.items()}
