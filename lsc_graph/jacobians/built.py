"""Jacobians that are built although they are large: of black boxes, whose products take whole matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lsc_graph.jacobians.cell import batched_jacobians, flat_from, flatten
from lsc_graph.spectra.operator import Operator, dense_operator
from lsc_graph.to_torch.black_box import BlackBox
from lsc_graph.to_torch.loop import CellModule

MAX_BYTES = 2**28
"""What the matrices of one layer, or of one depth edge, may take."""


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


def has_black_box(module: nn.Module) -> bool:
    """Whether any part of a module is differentiated by differences."""
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
    if not has_black_box(module) or len(points[0]) * size**2 * points[own[0]].element_size() > MAX_BYTES:
        return None
    found = batched_jacobians(lambda *values: flatten(module(*values)), points, own)
    return BuiltJacobians(torch.cat([flat_from(block, 2) for block in found], 2))
