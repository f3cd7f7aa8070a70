"""The gain of all edges into a layer, where each of them is looked at at some times of its own."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from lsc_graph.jacobians.radius import gain_scale

Norms = tuple[float, ...]
"""Frobenius norms of a block: its own, or those of the entries of a batch."""
Joint = defaultdict[tuple[str, int], list[tuple[Norms, int, int]]]
"""Norms, rows and columns (of one entry) of the blocks into each layer at each time."""


@dataclass(frozen=True)
class SampledNorms:
    """Frobenius norms of the blocks of one edge at some of its pairs of times, by their numbers."""

    target: str
    pairs: Sequence[tuple[int, int]]
    norms: Mapping[int, Norms]
    shape: tuple[int, int]

    @staticmethod
    def of(
        target: str,
        pairs: Sequence[tuple[int, int]],
        numbers: Sequence[int],
        gains: torch.Tensor,
        shape: tuple[int, int],
    ) -> SampledNorms:
        """From gains [B, P] of B entries, or [P], at the pairs of those numbers; the shape is that of one."""
        norms = (gains * gain_scale(*shape)).reshape(-1, len(numbers)).T.tolist()
        return SampledNorms(target, pairs, dict(zip(numbers, map(tuple, norms), strict=True)), shape)

    @property
    def usual(self) -> Norms:
        """Their root mean squares."""
        by_entry = zip(*self.norms.values(), strict=True)
        return tuple(math.hypot(*own) / math.sqrt(max(len(self.norms), 1)) for own in by_entry)


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


def joint_gain(blocks: Sequence[tuple[Norms, int, int]]) -> float | None:
    """The gain of blocks side by side; of batches, the mean over their entries.

    Where the entries of some blocks meet, all are looked at as a whole.

    Returns:
        None if they do not stand side by side.
    """
    if len({len(norms) for norms, _, _ in blocks}) > 1:
        blocks = [((math.hypot(*norms),), len(norms) * m, len(norms) * n) for norms, m, n in blocks]
    if len({rows for _, rows, _ in blocks}) > 1:
        return None
    scale = gain_scale(blocks[0][1], sum(columns for _, _, columns in blocks))
    by_entry = [math.hypot(*own) for own in zip(*(norms for norms, _, _ in blocks), strict=True)]
    return sum(by_entry) / len(by_entry) / scale
