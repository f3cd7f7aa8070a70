"""Batches of matrices as smaller ones with the same radii: a range that all share, blocks of units."""

from __future__ import annotations

import torch
from torch import Tensor

from lsc_graph.layers.cells import Layer

# From this size on looking for a shared range pays, if it saves this share of the size.
_SHARED_FROM, _WORTH = 48, 0.75
# Directions weaker than this share of the strongest, in squares, are rounding errors of float32.
_FAINT = 1e-11
# What may be left of a row, next to its length.
_OF_A_ROW = 1e-3
# Directions that one range has and another one has not, in sines of angles, and how many of them may be.
_NEW_DIRECTION, _MUCH_THE_SAME = 1e-3, 0.25


def shared_range(matrices: Tensor) -> Tensor | None:
    """An orthonormal basis Q [n, r] with M = Q Q^T M for all matrices [P, n, n]; None if r is about n.

    Between the layers of a state-space model all blocks pass through one input projection, narrower than
    the state. The nonzero eigenvalues of M are those of Q^T M Q.
    """
    size = matrices.shape[-1]
    if size < _SHARED_FROM or not len(matrices):
        return None
    every = matrices.double().movedim(0, 1).reshape(size, -1)
    squares, vectors = torch.linalg.eigh(every @ every.T)
    is_kept = squares > _FAINT * squares[-1]
    if not 0 < int(is_kept.sum()) <= _WORTH * size:
        return None
    basis = vectors[:, is_kept].contiguous()
    return basis if _has_every_row(basis, every) else None


def joined_range(before: Tensor, now: Tensor) -> Tensor:
    """A basis of what was the range before, too, if that is much the same; else that of now.

    Units that are off at some points are missing in what these alone show.
    """
    rest = before - now @ (now.T @ before)
    vectors, sizes, _ = torch.linalg.svd(rest, full_matrices=False)
    more = vectors[:, sizes > _NEW_DIRECTION]
    is_same = more.shape[1] <= _MUCH_THE_SAME * now.shape[1]
    return torch.linalg.qr(torch.cat([now, more], 1))[0] if is_same else now


def covers(basis: Tensor, matrices: Tensor) -> bool:
    """Whether M = Q Q^T M for all matrices [P, n, n], but for rounding; seen on random vectors."""
    if len(basis) != matrices.shape[-1]:
        return False
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(matrices.shape[-1], 2, dtype=torch.float64, generator=generator).to(matrices)
    seen = (matrices @ probes).double()
    rest = seen - basis @ (basis.T @ seen)
    is_small = rest.square().sum() <= 1e3 * _FAINT * seen.square().sum()
    return bool(is_small) and _has_every_row(basis, seen.movedim(0, 1).flatten(1))


def _has_every_row(basis: Tensor, columns: Tensor) -> bool:
    """Whether Q Q^T M has all rows of matrices next to their own lengths: states may be in small units."""
    rest = columns - basis @ (basis.T @ columns)
    return bool((rest.norm(dim=1) <= _OF_A_ROW * columns.norm(dim=1)).all())


def num_units(layer: Layer) -> int:
    """Units of a layer whose states are all [1, N] (or [N]); 0 for others."""
    shapes = {tuple(size for size in state.shape if size != 1) for state in layer.states}
    return shapes.pop()[0] if len(shapes) == 1 and all(len(shape) == 1 for shape in shapes) else 0


def unit_matrices(matrices: Tensor, layer: Layer) -> Tensor | None:
    """[P, N, k, k]: what each of N units does to its k states; None if units are coupled."""
    count, num_states = num_units(layer), len(layer.states)
    if not count:
        return None
    shaped = matrices.reshape(-1, num_states, count, num_states, count)
    units = torch.diagonal(shaped, dim1=2, dim2=4)
    # One matrix shows most couplings: all of them are looked at only where it shows none.
    if any(
        int(s.count_nonzero()) != int(u.count_nonzero())
        for s, u in ((shaped[:1], units[:1]), (shaped, units))
    ):
        return None
    return units.movedim(-1, 1).double()
