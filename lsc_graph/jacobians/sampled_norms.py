"""The gain of all edges into a layer, where each of them is looked at at some times of its own."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from lsc_graph.jacobians.radius import gain_scale

Joint = defaultdict[tuple[str, int], list[tuple[float, int, int]]]
"""Frobenius norms, rows and columns of the blocks into each layer at each time."""


@dataclass(frozen=True)
class SampledNorms:
    """Frobenius norms of the blocks of one edge at some of its pairs of times, by their numbers."""

    target: str
    pairs: Sequence[tuple[int, int]]
    norms: Mapping[int, float]
    shape: tuple[int, int]

    @staticmethod
    def of(
        target: str,
        pairs: Sequence[tuple[int, int]],
        numbers: Sequence[int],
        gains: torch.Tensor,
        shape: tuple[int, int],
    ) -> SampledNorms:
        """From gains at the pairs of those numbers."""
        norms = (gains * gain_scale(*shape)).tolist()
        return SampledNorms(target, pairs, dict(zip(numbers, norms, strict=True)), shape)

    @property
    def usual(self) -> float:
        """Their root mean square."""
        return math.sqrt(sum(own**2 for own in self.norms.values()) / max(len(self.norms), 1))


def note_joint(joint: Joint, edges: Sequence[SampledNorms]) -> None:
    """Every block into a layer at the times at which any of them was looked at.

    Those that were not are as large as theirs usually are: left out, they would count as nothing.
    """
    times = {(own.target, own.pairs[number][1]) for own in edges for number in own.norms}
    for own in edges:
        usual = own.usual
        for number, (_, head) in enumerate(own.pairs):
            if (own.target, head) in times:
                joint[own.target, head].append((own.norms.get(number, usual), *own.shape))


def joint_gain(blocks: Sequence[tuple[float, int, int]]) -> float:
    """The gain of blocks side by side, from their Frobenius norms and shapes."""
    scale = gain_scale(blocks[0][1], sum(columns for _, _, columns in blocks))
    return math.hypot(*(norm for norm, _, _ in blocks)) / scale
