"""How far spectral radii may be off where the matrices themselves are known within error bars alone.

To first order a change of column j by a vector of length d_j moves an eigenvalue lambda with unit left and
right eigenvectors w, v by at most sum_j d_j |v_j| / |w^H v| (G. H. Golub and C. F. Van Loan, Matrix
Computations, 4th edition, 7.2.2), which is no more than the condition number times the norm of the change.
Of a defective eigenvalue that says nothing, and is infinite.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lsc_graph.spectra.eigenvalues import eigenvalues
from lsc_graph.spectra.eigenvectors import eigenvectors
from lsc_graph.spectra.estimate import Estimate

# Eigenvalues that may become the dominant one: so many, of at least this part of its modulus.
_NUM_RIVALS, _RIVAL = 8, 0.5
_MAX_ELEMENTS = 2**21
# Random cotangents that tell the length of a change, and a factor by which they never fall short of it.
_NUM_PROBES, _SURELY = 16, 2.0


@torch.no_grad()
def radius_bars(matrices: Tensor, changes: Tensor) -> Tensor:
    """Error bars [P] (absolute, float64 on the CPU) of the spectral radii of matrices [P, n, n].

    Args:
        matrices: as far as they are known.
        changes: one change [P, n, n] within the bars of their elements, with columns as long as these allow.

    Returns:
        inf where nothing is known to first order. Rivals of the dominant eigenvalue are looked at, too, and
        what this very change does to the radius counts, if it is more.
    """
    size = max(1, _MAX_ELEMENTS // max(1, _NUM_RIVALS * matrices[:1].numel()))
    parts = zip(torch.split(matrices.cpu(), size), torch.split(changes.cpu(), size), strict=True)
    found = [_bars(own.double(), change.double()) for own, change in parts]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)


def block_bars(blocks: Tensor, changes: Tensor) -> Tensor:
    """The same of block-diagonal matrices, by their blocks and what these change by [P, u, k, k]."""
    bars = radius_bars(blocks.flatten(0, 1), changes.flatten(0, 1)).reshape(blocks.shape[:2])
    radii = eigenvalues(blocks.cpu().double()).abs().amax(2)
    radius = radii.amax(1)
    return torch.maximum((radii + bars).amax(1) - radius, radius - (radii - bars).amax(1))


@torch.no_grad()
def product_bars(estimate: Estimate, change: Callable[[Tensor], Tensor], shape: tuple[int, int]) -> Tensor:
    """The same of matrices that are known by products: the length of a change by the condition number.

    Args:
        estimate: of the radii; nan is given where it has no condition number.
        change: maps cotangents [P, K, n] (float64) to what one change of the matrices within their bars
            pulls them back to.
        shape: (P, n).
    """
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(shape[0], _NUM_PROBES, shape[1], generator=generator, dtype=torch.float64)
    changes = change(probes).double().cpu()
    lengths = _SURELY * torch.linalg.matrix_norm(changes) / _NUM_PROBES**0.5
    return torch.where(lengths > 0, lengths * estimate.conditions, 0.0)


def _bars(matrices: Tensor, changes: Tensor) -> Tensor:
    is_known = (matrices.isfinite() & changes.isfinite()).flatten(1).all(1)
    matrices, changes = (torch.where(is_known[:, None, None], own, 0.0) for own in (matrices, changes))
    values = eigenvalues(matrices)
    order = values.abs().argsort(1, descending=True)[:, :_NUM_RIVALS]
    values = values.gather(1, order)
    moves = _moves(matrices, values, torch.linalg.vector_norm(changes, dim=1))
    moduli = values.abs()
    radius = moduli[:, 0]
    moves = torch.where(moduli >= _RIVAL * radius[:, None], moves, 0.0)
    highest, lowest = (moduli + moves).amax(1), (moduli - moves).amax(1)
    other = eigenvalues(matrices + changes).abs().amax(1)
    bars = torch.stack([highest - radius, radius - lowest, (other - radius).abs()]).amax(0)
    return torch.where(is_known, bars, torch.inf)


def _moves(matrices: Tensor, values: Tensor, lengths: Tensor) -> Tensor:
    """How far eigenvalues [P, K] may move to first order, where columns change by so much [P, n]."""
    count = values.shape[1]
    pairs = eigenvectors(matrices.repeat_interleave(count, 0), values.flatten())
    along = (pairs.right.abs() * lengths.repeat_interleave(count, 0)).sum(1)
    moved = torch.where(along > 0, along / pairs.cosines, 0.0)
    return moved.nan_to_num(torch.inf, torch.inf).reshape(values.shape)
