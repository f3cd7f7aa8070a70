"""Time Jacobians that consist of one k x k block for each unit: assembled by k pulls, never built whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vjp, vmap

from lsc_graph.jacobians.cell import at_points, cell_points, flatten
from lsc_graph.jacobians.structure import UnitLayout, unit_layouts
from lsc_graph.spectra.eigenvalues import eigenvalues
from lsc_graph.spectra.estimate import TOLERANCE, Estimate, Method
from lsc_graph.spectra.handed import handed
from lsc_graph.to_torch.loop import CellModule, Trajectory

_AGREEMENT = 1e-4
# Points whose vector-Jacobian products are taken together, by how many numbers they hold.
_MAX_ELEMENTS = 2**20
# Random halves of the units: two that meet are in the same half of all of them once in 2^8 times.
_NUM_MASKS = 8


@dataclass(frozen=True)
class UnitBlocks:
    """P matrices whose states are k variables of u units each: `blocks` [P, u, k, k].

    Element (places[i, a], places[j, b]) of a matrix is blocks[a, i, j] where a = b, and 0 elsewhere, with the
    places of `layout`.
    """

    blocks: Tensor
    layout: UnitLayout

    @property
    def num_points(self) -> int:
        return self.blocks.shape[0]

    @property
    def size(self) -> int:
        return self.blocks.shape[1] * self.blocks.shape[2]

    def at(self, points: slice) -> UnitBlocks:
        """Some of the matrices."""
        return UnitBlocks(self.blocks[points], self.layout)

    def by_entry(self, entries: Tensor | None) -> list[Tensor]:
        """The blocks of each entry of a batch, whose elements lie at `entries` [B, m]; of all if None."""
        if entries is None:
            return [self.blocks]
        unit_of = self.layout.unit_of()
        units = [torch.unique(unit_of[entry.cpu()]).to(self.blocks.device) for entry in entries]
        return [self.blocks[:, own] for own in units]

    def cpu(self) -> UnitBlocks:
        """The same on the CPU."""
        return UnitBlocks(self.blocks.cpu(), self.layout)

    def dense(self) -> Tensor:
        """The whole matrices [P, n, n]; for small ones."""
        whole = self.blocks.new_zeros(self.num_points, self.size, self.size)
        places = self.layout.places.T.to(whole.device)
        whole[:, places[:, :, None], places[:, None, :]] = self.blocks
        return whole

    def pull(self, point: int) -> Callable[[Tensor], Tensor]:
        """Cotangents [K, n] times one of the matrices."""
        blocks, variables = self.blocks[point], self.layout.variables()

        def pulled(cotangents: Tensor) -> Tensor:
            # Doubles of all steps at once would take more memory than anything else.
            return _pulled(blocks.double(), cotangents, variables)

        return pulled

    def gain(self) -> Tensor:
        """||M||_F / sqrt(n) [P], float64."""
        return block_gain(self.blocks)

    def radius(self, tolerance: float = TOLERANCE) -> Estimate:
        """Spectral radii, by the eigenvalues of all blocks."""
        return block_radius(self.blocks, tolerance)


def block_gain(blocks: Tensor) -> Tensor:
    """||M||_F / sqrt(n) [P], float64, of matrices of blocks [P, u, k, k]."""
    squares = [matrices.double().square().sum() for matrices in blocks]
    total = torch.stack(squares) if squares else blocks.new_zeros(0, dtype=torch.float64)
    return (total / (blocks.shape[1] * blocks.shape[2])).sqrt()


def block_radius(blocks: Tensor, tolerance: float = TOLERANCE) -> Estimate:
    """Spectral radii [P] of matrices of blocks [P, u, k, k], by the eigenvalues of all blocks."""
    finite = blocks.isfinite().flatten(1).all(1)
    # Doubles of all points at once would take more memory than anything else.
    at_once = max(1, _MAX_ELEMENTS // max(1, blocks[:1].numel()))
    parts = torch.split(blocks, at_once) if len(blocks) else ()
    found = [_largest_eigenvalues(part.nan_to_num(0.0, 0.0, 0.0).double()) for part in parts]
    values = torch.where(finite, torch.cat(found), math.nan) if found else blocks.new_zeros(0)
    errors = torch.full_like(values, torch.finfo(torch.float64).eps)
    return Estimate.of(Method.BLOCKS, values, errors, tolerance=tolerance)


def _pulled(blocks: Tensor, cotangents: Tensor, variables: Sequence[slice | Tensor]) -> Tensor:
    """Cotangents [..., n] times blocks [u, k, k], or [..., u, k, k], variable by variable."""
    parts = [cotangents[..., own] for own in variables]
    pulled = torch.empty_like(cotangents)
    for j, own in enumerate(variables):
        total = parts[0] * blocks[..., 0, j]
        for i, part in enumerate(parts[1:], 1):
            total.addcmul_(part, blocks[..., i, j])
        pulled[..., own] = total
    return pulled


def _largest_eigenvalues(blocks: Tensor) -> Tensor:
    """The largest modulus [P] of any eigenvalue of blocks [P, u, k, k]; in closed form up to 2 x 2."""
    width = blocks.shape[-1]
    if width == 1:
        return blocks.abs().flatten(1).amax(1)
    if width > 2:
        return eigenvalues(blocks).abs().flatten(1).amax(1)
    (a, b), (c, d) = blocks.movedim((2, 3), (0, 1))
    middle, half = (a + d) / 2, (a - d) / 2
    under = half.square() + b * c
    real = middle.abs() + under.clamp_min(0).sqrt()
    # A complex pair has the root of the determinant as its modulus.
    return torch.where(under >= 0, real, (a * d - b * c).clamp_min(0).sqrt()).amax(1)


def unit_blocks(module: CellModule, trajectory: Trajectory, generator: torch.Generator) -> UnitBlocks | None:
    """The blocks of a layer's time Jacobian at every step, if its units do not meet in any of them.

    Cotangents of some units, at random, have to leave the others at exactly zero at every step, and at the
    first one many times; and what was found has to pull back random cotangents as the step itself does.

    Returns:
        None if units meet in every layout of the states.
    """
    points = cell_points(module, trajectory)
    own = [module.reads.index(("before", state.name)) for state in module.cell.layer.states]
    first = [value[:1] for value in points]
    for layout in _apart_at_first(module, first, own, generator):
        found = _by_layout(module, points, own, layout, generator)
        if found is not None:
            return found
    return None


def _apart_at_first(
    module: CellModule, point: Sequence[Tensor], own: Sequence[int], generator: torch.Generator
) -> list[UnitLayout]:
    """The layouts in which cotangents of many random halves of the units are pulled back to these alone."""
    layouts = list(unit_layouts([point[index].shape[1:] for index in own]))
    if not layouts:
        return []
    masks = torch.cat([_masks(layout, _NUM_MASKS, generator) for layout in layouts])
    like = point[own[0]]
    probes = handed(torch.randn(masks.shape, generator=generator), like.device, like.dtype)
    masks = handed(masks, like.device)
    # Looked at once, at the end: a GPU would be waited for each time.
    meet = []
    for part in _parts(len(masks), layouts[0]):
        mask, probe = masks[part], probes[part]
        copies = [value.expand(len(mask), *value.shape[1:]) for value in point]
        meet.append((pull_states(module, copies, own, probe * mask) * ~mask).bool().any(1))
    do_meet = torch.cat(meet).reshape(len(layouts), _NUM_MASKS).any(1).tolist()
    return [layout for layout, is_met in zip(layouts, do_meet, strict=True) if not is_met]


def _masks(layout: UnitLayout, count: int, generator: torch.Generator) -> Tensor:
    """The elements [count, n] of random halves of the units."""
    return (torch.rand(count, layout.units, generator=generator) < 0.5)[:, layout.unit_of()]


def _by_layout(
    module: CellModule,
    points: Sequence[Tensor],
    own: Sequence[int],
    layout: UnitLayout,
    generator: torch.Generator,
) -> UnitBlocks | None:
    """The blocks of a layout; None if units meet somewhere, or blocks do not say what the step does."""
    num_points = points[0].shape[0]
    # In place: blocks of all steps may be larger than anything else.
    blocks = points[own[0]].new_empty(num_points, layout.units, layout.width, layout.width)
    for part in _parts(num_points, layout, layout.width + 2):
        found = _verified(module, [value[part] for value in points], own, layout, generator)
        if found is None:
            return None
        blocks[part] = found
    return UnitBlocks(blocks, layout)


def _parts(num_points: int, layout: UnitLayout, num_cotangents: int = 1) -> Iterator[slice]:
    """Points that are looked at together, by so many cotangents each."""
    step = max(1, _MAX_ELEMENTS // (layout.places.numel() * num_cotangents))
    return (slice(start, start + step) for start in range(0, num_points, step))


def pull_states(
    module: CellModule, points: Sequence[Tensor], own: Sequence[int], cotangents: Tensor
) -> Tensor:
    """Vector-Jacobian products with respect to the own old states, for cotangents [P, n] or [P, R, n]."""

    def pull(cotangent: Tensor, *values: Tensor) -> Tensor:
        def function(*states: Tensor) -> Tensor:
            given = list(values)
            for index, state in zip(own, states, strict=True):
                given[index] = state
            return flatten(module(*given))

        _, pullback, *_ = vjp(function, *(values[index] for index in own))
        if cotangent.dim() == 1:
            return flatten(pullback(cotangent))
        return vmap(lambda row: flatten(pullback(row)))(cotangent)

    pulled: Tensor = at_points(pull, points, cotangents)
    return pulled


def _verified(
    module: CellModule,
    points: Sequence[Tensor],
    own: Sequence[int],
    layout: UnitLayout,
    generator: torch.Generator,
) -> Tensor | None:
    """Blocks [P, u, k, k] of some points by one pull of k + 2 cotangents for each: one of every variable, one
    of half the units and one of all, which tell whether the blocks are all there is."""
    first = points[own[0]]
    num_points, size = first.shape[0], layout.places.numel()
    places, mask = layout.places.to(first.device), _masks(layout, 1, generator).to(first.device)
    cotangents = first.new_zeros(num_points, layout.width + 2, size)
    for variable, place in enumerate(places):
        cotangents[:, variable, place] = 1
    probes = torch.randn(num_points, 2, size, generator=generator).to(first)
    cotangents[:, -2:] = probes
    cotangents[:, -1] *= mask
    pulled = pull_states(module, points, own, cotangents)
    blocks = pulled[:, : layout.width, places].permute(0, 3, 1, 2)
    expected = _pulled(blocks, probes[:, 0], layout.variables())
    is_said = (pulled[:, -2] - expected).norm() <= _AGREEMENT * expected.norm()
    is_apart = ~(pulled[:, -1] * ~mask).any()
    return blocks if bool(is_said & is_apart) else None
