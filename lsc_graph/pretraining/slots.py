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
    """One edge at the points of some samples: where its active block lies, and its direction."""

    rows: list[int]
    columns: list[int]
    direction: Direction
    is_radius: bool


@dataclass
class Whole:
    """A block with which of the points [S, P] of an edge it is of, sample after sample.

    `number` is that of the edge among all that were pulled along.
    """

    number: int
    edge: EdgeRows
    positions: list[list[int]]
    block: Block

    @property
    def sizes(self) -> list[int]:
        """How many points each sample has."""
        return [len(own) for own in self.positions]

    @property
    def flat(self) -> list[int]:
        """The positions among all points of all samples."""
        width = len(self.edge.targets)
        return [width * k + position for k, own in enumerate(self.positions) for position in own]


def padded(block: Block, target: Layer) -> Tensor:
    """A block's left vectors as cotangents of the whole new state, [P, 2, n_target]."""
    left = block.direction.left
    full = left.new_zeros(left.shape[0], 2, target.state_size)
    full[:, :, block.rows] = left
    return full


class Slots:
    """Which rows of a layer's cotangents belong to which edge and point, the same for every sample.

    An edge may reach one step from several earlier ones: each occurrence has two rows of its own.
    """

    def __init__(self, edges: Sequence[EdgeRows]) -> None:
        self.first: list[int] = []
        self.occurrence: list[list[int]] = []
        used: defaultdict[str, int] = defaultdict(int)
        for edge in edges:
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
        self, wholes: Sequence[Whole], layers: Mapping[str, Layer], num_points: int
    ) -> dict[str, Tensor]:
        """The cotangents of every layer by its id, [S, num_points, R, n]; zeros where there is no point."""
        found: dict[str, Tensor] = {}
        num_samples = len(wholes[0].positions) if wholes else 0
        for number, whole in enumerate(wholes):
            edge, own = whole.edge, padded(whole.block, layers[whole.edge.target])
            every = own.new_zeros(num_samples * len(edge.targets), *own.shape[1:])
            every[whole.flat] = own
            like = own.new_zeros(num_samples, num_points, self.num_rows[edge.target], own.shape[2])
            full = found.setdefault(edge.target, like)
            places = torch.tensor(edge.targets)[:, None], self.rows(number)
            full[:, *places] = every.reshape(num_samples, -1, *own.shape[1:])
        return {
            name: found.get(name, torch.zeros(num_samples, num_points, 1, layer.state_size))
            for name, layer in layers.items()
        }

    def pick(self, pulled: Sequence[Tensor]) -> list[Tensor]:
        """Each edge's own rows of [S, P, R, n_source], [S P, 2, n_source]."""
        return [
            rows[:, torch.arange(rows.shape[1])[:, None], self.rows(number)].flatten(0, 1)
            for number, rows in enumerate(pulled)
        ]
