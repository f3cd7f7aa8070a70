"""Jacobians that are built although they are large: of black boxes, whose products take whole matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lsc_graph.jacobians.cell import batched_jacobians, flat_from, flatten
from lsc_graph.jacobians.depth_maps import MAX_TIME_BYTES, DepthMaps
from lsc_graph.spectra.operator import Operator, dense_operator
from lsc_graph.to_torch.black_box import BlackBox
from lsc_graph.to_torch.loop import CellModule

# Elements of cotangents that are pulled back together.
_MAX_ELEMENTS = 2**22


@dataclass(frozen=True)
class BuiltJacobians:
    """P matrices [n, n]."""

    matrices: Tensor

    def at(self, numbers: Tensor) -> BuiltJacobians:
        """Some of the matrices."""
        return BuiltJacobians(self.matrices[numbers.to(self.matrices.device)])

    def pull(self, cotangents: Tensor) -> Tensor:
        """Rows [P, n] times the matrices; rows [K, n] times a single one."""
        if len(self.matrices) == 1:
            return cotangents @ self.matrices[0]
        return torch.bmm(cotangents[:, None], self.matrices)[:, 0]

    def operator(self) -> Operator:
        """Products with the transposed matrices."""
        return dense_operator(self.matrices.transpose(1, 2))

    def dense(self) -> Tensor:
        """The matrices [P, n, n]."""
        return self.matrices


def is_black_box(module: CellModule) -> bool:
    """Whether any part of a cell is differentiated by differences."""
    return any(isinstance(own, BlackBox) for own in module.modules())


def built_jacobians(
    module: CellModule, points: Sequence[Tensor], own: Sequence[int]
) -> BuiltJacobians | None:
    """Time Jacobians of a cell that is a black box; None if it is none, or if they take too much memory.

    Args:
        module: the cell.
        points: what it reads at P points, as of `cell_points`.
        own: which of these are its own old states.
    """
    size = module.cell.layer.state_size
    if not is_black_box(module) or len(points[0]) * size**2 * points[own[0]].element_size() > MAX_TIME_BYTES:
        return None
    found = batched_jacobians(lambda *values: flatten(module(*values)), points, own)
    return BuiltJacobians(torch.cat([flat_from(block, 2) for block in found], 2))


def built_maps(maps: DepthMaps) -> DepthMaps:
    """The blocks of a depth edge as maps that multiply with them, unless these take too much memory."""
    rows, columns = maps.shape
    if len(maps.pairs) * rows * columns * maps.like.element_size() > MAX_TIME_BYTES:
        return maps
    blocks = maps.like.new_empty(len(maps.pairs), rows, columns)
    size = max(1, _MAX_ELEMENTS // (rows * max(rows, columns)))
    for start in range(0, len(blocks), size):
        numbers = list(range(start, min(start + size, len(blocks))))
        units = torch.eye(rows, dtype=maps.like.dtype, device=maps.like.device)
        blocks[numbers] = maps.pull(numbers, units.expand(len(numbers), -1, -1)).detach()
    return replace(maps, pull=_products(blocks))


def _products(blocks: Tensor) -> Callable[[Sequence[int], Tensor], Tensor]:
    def pull(numbers: Sequence[int], cotangents: Tensor) -> Tensor:
        return torch.bmm(cotangents, blocks[list(numbers)])

    return pull
