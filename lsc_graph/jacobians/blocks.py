"""Time Jacobians that consist of one k x k block for each unit: assembled by k pulls, never built whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vjp

from lsc_graph.jacobians.cell import at_points, cell_points, flatten
from lsc_graph.jacobians.structure import is_unitwise
from lsc_graph.layers.cells import Cell
from lsc_graph.spectra.estimate import TOLERANCE, Estimate, Method
from lsc_graph.to_torch.loop import CellModule, Trajectory

_AGREEMENT = 1e-4
# Points whose vector-Jacobian products are taken together, by how many numbers they hold.
_MAX_ELEMENTS = 2**20


@dataclass(frozen=True)
class UnitBlocks:
    """P matrices whose states are k variables of u units each: `blocks` [P, u, k, k].

    Element (i u + a, j u + b) of a matrix is blocks[a, i, j] where a = b, and 0 elsewhere.
    """

    blocks: Tensor

    @property
    def num_points(self) -> int:
        return self.blocks.shape[0]

    @property
    def size(self) -> int:
        return self.blocks.shape[1] * self.blocks.shape[2]

    def at(self, points: slice) -> UnitBlocks:
        """Some of the matrices."""
        return UnitBlocks(self.blocks[points])

    def by_entry(self, entries: Tensor | None) -> list[UnitBlocks]:
        """The units of each entry of a batch, whose elements lie at `entries` [B, m]; all of them if None."""
        if entries is None:
            return [self]
        units = self.blocks.shape[1]
        return [UnitBlocks(self.blocks[:, entry[entry < units]]) for entry in entries]

    def cpu(self) -> UnitBlocks:
        """The same on the CPU."""
        return UnitBlocks(self.blocks.cpu())

    def dense(self) -> Tensor:
        """The whole matrices [P, n, n]; for small ones."""
        points, units, width, _ = self.blocks.shape
        whole = self.blocks.new_zeros(points, width, units, width, units)
        index = torch.arange(units)
        whole[:, :, index, :, index] = self.blocks.movedim(1, 0)
        return whole.reshape(points, self.size, self.size)

    def pull(self, point: int) -> Callable[[Tensor], Tensor]:
        """Cotangents [K, n] times one of the matrices."""
        blocks = self.blocks[point]

        def pulled(cotangents: Tensor) -> Tensor:
            # Doubles of all steps at once would take more memory than anything else.
            return _pulled(blocks.double(), cotangents)

        return pulled

    def gain(self) -> Tensor:
        """||M||_F / sqrt(n) [P], float64."""
        squares = [matrices.double().square().sum() for matrices in self.blocks]
        total = torch.stack(squares) if squares else self.blocks.new_zeros(0, dtype=torch.float64)
        return (total / self.size).sqrt()

    def radius(self, tolerance: float = TOLERANCE) -> Estimate:
        """Spectral radii, by the eigenvalues of all blocks."""
        finite = self.blocks.isfinite().flatten(1).all(1)
        found = [
            _largest_eigenvalues(matrices.nan_to_num(0.0, 0.0, 0.0).double()) for matrices in self.blocks
        ]
        values = torch.where(finite, torch.stack(found), math.nan) if found else self.blocks.new_zeros(0)
        errors = torch.full_like(values, torch.finfo(torch.float64).eps)
        return Estimate.of(Method.BLOCKS, values, errors, tolerance=tolerance)


def _pulled(blocks: Tensor, cotangents: Tensor) -> Tensor:
    """Cotangents [..., k u] times blocks [u, k, k], variable by variable."""
    units, width, _ = blocks.shape
    parts = cotangents.reshape(*cotangents.shape[:-1], width, units)
    columns = [sum(parts[..., i, :] * blocks[:, i, j] for i in range(width)) for j in range(width)]
    return torch.cat([torch.as_tensor(column) for column in columns], -1)


def _largest_eigenvalues(blocks: Tensor) -> Tensor:
    """The largest modulus of any eigenvalue of blocks [u, k, k]; in closed form up to 2 x 2."""
    width = blocks.shape[-1]
    if width == 1:
        return blocks.abs().max()
    if width > 2:
        found: Tensor = torch.linalg.eigvals(blocks).abs().max()
        return found
    (a, b), (c, d) = blocks.movedim(0, -1)
    middle, half = (a + d) / 2, (a - d) / 2
    under = half.square() + b * c
    real = middle.abs() + under.clamp_min(0).sqrt()
    # A complex pair has the root of the determinant as its modulus.
    return torch.where(under >= 0, real, (a * d - b * c).clamp_min(0).sqrt()).max()


def unit_blocks(module: CellModule, trajectory: Trajectory, generator: torch.Generator) -> UnitBlocks | None:
    """The blocks of a layer's time Jacobian at every step, if the graph says that it has them.

    What the graph says is verified at every step by pulling back random cotangents.

    Returns:
        None if the states of different units meet.
    """
    cell: Cell = module.cell
    if not is_unitwise(cell):
        return None
    points = cell_points(module, trajectory)
    own = [index for index, (kind, _) in enumerate(module.reads) if kind == "before"][
        : len(cell.layer.states)
    ]
    width, units = len(own), points[own[0]][0].numel()
    step = max(1, _MAX_ELEMENTS // (width * units))
    num_points = points[0].shape[0]
    # In place: blocks of all steps may be larger than anything else.
    blocks = points[own[0]].new_empty(num_points, units, width, width)
    for start in range(0, num_points, step):
        here = [value[start : start + step] for value in points]
        found = _assembled(module, here, own, units)
        if not _agrees(module, here, own, found, generator):
            return None
        blocks[start : start + step] = found
    return UnitBlocks(blocks)


def _pull_states(
    module: CellModule, points: Sequence[Tensor], own: Sequence[int], cotangents: Tensor
) -> Tensor:
    """Vector-Jacobian products [P, n] with respect to the own old states, for cotangents [P, n]."""

    def pull(cotangent: Tensor, *values: Tensor) -> Tensor:
        def function(*states: Tensor) -> Tensor:
            given = list(values)
            for index, state in zip(own, states, strict=True):
                given[index] = state
            return flatten(module(*given))

        _, pullback, *_ = vjp(function, *(values[index] for index in own))
        return flatten(pullback(cotangent))

    pulled: Tensor = at_points(pull, points, cotangents)
    return pulled


def _assembled(module: CellModule, points: Sequence[Tensor], own: Sequence[int], units: int) -> Tensor:
    """Blocks [P, u, k, k] from one pull for each state variable."""
    num_points, width = points[own[0]].shape[0], len(own)
    rows = []
    for index in range(width):
        ones = points[own[0]].new_zeros(num_points, width, units)
        ones[:, index] = 1
        pulled = _pull_states(module, points, own, ones.flatten(1))
        rows.append(pulled.reshape(num_points, width, units))
    return torch.stack(rows, 1).permute(0, 3, 1, 2).contiguous()


def _agrees(
    module: CellModule,
    points: Sequence[Tensor],
    own: Sequence[int],
    blocks: Tensor,
    generator: torch.Generator,
) -> bool:
    """Whether random cotangents are pulled back as the blocks say."""
    shape = (blocks.shape[0], blocks.shape[1] * blocks.shape[2])
    probes = torch.randn(shape, generator=generator).to(blocks)
    pulled = _pull_states(module, points, own, probes)
    expected = torch.stack(
        [_pulled(own_blocks, probe) for own_blocks, probe in zip(blocks, probes, strict=True)]
    )
    return bool((pulled - expected).norm() <= _AGREEMENT * expected.norm())
