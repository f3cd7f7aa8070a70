"""Which cotangents a layer's new state is given, so that every edge's radius is differentiated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lsc_graph.layers.cells import Layer
from lsc_graph.pretraining.edge_rows import EdgeRows
from lsc_graph.pretraining.eigenpairs import Direction


@dataclass
class Block:
    """One edge at the points of one sample: where its active block lies, and its direction."""

    rows: list[int]
    columns: list[int]
    direction: Direction
    is_radius: bool


def padded(block: Block, target: Layer) -> Tensor:
    """A block's left vectors as cotangents of the whole new state, [P, 2, n_target]."""
    left = block.direction.left
    full = left.new_zeros(left.shape[0], 2, target.state_size)
    full[:, :, block.rows] = left
    return full


class Slots:
    """Which rows of a layer's cotangents belong to which edge and point.

    An edge may reach one step from several earlier ones: each occurrence has two rows of its own.
    """

    def __init__(self, dense: Sequence[EdgeRows]) -> None:
        self.first: list[int] = []
        self.occurrence: list[list[int]] = []
        used: defaultdict[str, int] = defaultdict(int)
        for edge in dense:
            seen: defaultdict[int, int] = defaultdict(int)
            numbers = []
            for target in edge.targets:
                numbers.append(seen[target])
                seen[target] += 1
            self.first.append(used[edge.target])
            self.occurrence.append(numbers)
            used[edge.target] += 2 * (max(numbers) + 1)
        self.num_rows = dict(used)

    def rows(self, edge: int) -> Tensor:
        """Row numbers [P, 2] of an edge's points."""
        first = self.first[edge] + 2 * torch.tensor(self.occurrence[edge])
        return torch.stack([first, first + 1], 1)

    def fill(
        self,
        dense: Sequence[EdgeRows],
        blocks: Sequence[Block],
        layers: Mapping[str, Layer],
        num_points: int,
    ) -> dict[str, Tensor]:
        """The cotangents of every layer by its id, [num_points, R, n]."""
        found: dict[str, Tensor] = {}
        for number, (edge, block) in enumerate(zip(dense, blocks, strict=True)):
            cotangents = padded(block, layers[edge.target])
            like = cotangents.new_zeros(num_points, self.num_rows[edge.target], cotangents.shape[2])
            full = found.setdefault(edge.target, like)
            full[torch.tensor(edge.targets)[:, None], self.rows(number)] = cotangents
        return {
            name: found.get(name, torch.zeros(num_points, 1, layer.state_size))
            for name, layer in layers.items()
        }

    def pick(self, pulled: Sequence[EdgeRows]) -> list[Tensor]:
        """Each edge's own rows, [P, 2, n_source]."""
        return [
            edge.rows[torch.arange(len(edge.targets))[:, None], self.rows(number)]
            for number, edge in enumerate(pulled)
        ]
