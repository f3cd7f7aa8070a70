"""Matrices with the same eigenvalues whose rows and columns are about as long, in units that fit each other.

States in unlike units, such as sums beside averages, or groups of which one only drives the other, make
Jacobians whose eigenvalues seem badly conditioned, and are not once every unit is measured on its own scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MAX_SWEEPS = 200


def balanced(matrices: Tensor) -> Tensor:
    """D^-1 M D for finite matrices [P, n, n], with diagonal D of powers of two: nothing is rounded.

    After E. E. Osborne, "On pre-conditioning of matrices", Journal of the ACM 1960; all units at once. Where
    a unit is read by no other one, or reads none, what it reads, or what reads it, leaves the eigenvalues
    alone, and is set to zero.
    """
    return balancing(matrices)[0]


def balancing(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """The same with the diagonals D [P, n]."""
    found = matrices.new_ones(matrices.shape[:2])
    diagonal = torch.diag_embed(matrices.diagonal(dim1=1, dim2=2))
    off = matrices - diagonal
    for _ in range(_MAX_SWEEPS):
        rows, columns = (torch.linalg.vector_norm(off, dim=axis) for axis in (2, 1))
        meets = (rows > 0) & (columns > 0)
        ratio = torch.where(meets, rows, 1.0) / torch.where(meets, columns, 1.0)
        # Half of the way, since those that a unit meets move, too.
        scales = torch.exp2((ratio.log2() / 4).round())
        is_loose = (rows > 0) != (columns > 0)
        if not bool((is_loose | (scales != 1)).any()):
            break
        kept = meets.to(off.dtype)
        off = off * (kept * scales)[:, None, :] * (kept / scales)[:, :, None]
        found = found * scales
    return diagonal + off, found


def in_range(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Finite matrices [P, n, n] over the powers of two [P] next to their largest elements, and these powers.

    Norms of what is huge or tiny leave the range of floats; by powers of two nothing is rounded.
    """
    exponents = matrices.abs().amax((1, 2)).frexp().exponent - 1
    scales = torch.ldexp(torch.ones_like(matrices[:, 0, 0]), exponents)
    return matrices / scales[:, None, None], scales
