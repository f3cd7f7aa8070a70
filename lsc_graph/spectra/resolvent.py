"""(M - sigma)^-1 of batches of real matrices M, in real numbers where sigma is real."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Resolvent:
    """Of P matrices at one shift each, by their factors."""

    factors: Tensor
    pivots: Tensor

    @staticmethod
    def of(matrices: Tensor, shifts: Tensor) -> Resolvent:
        """Of matrices [P, n, n] at shifts [P], in the type of these."""
        shifted = matrices.to(shifts.dtype, copy=True)
        shifted.diagonal(dim1=1, dim2=2).sub_(shifts[:, None])
        factors, pivots, _ = torch.linalg.lu_factor_ex(shifted)
        return Resolvent(factors, pivots)

    def __call__(self, vectors: Tensor, *, adjoint: bool = False) -> Tensor:
        """Times vectors [P, n, k]."""
        found: Tensor = torch.linalg.lu_solve(self.factors, self.pivots, vectors, adjoint=adjoint)
        return found


def by_type(shifts: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The numbers of those complex shifts [P] that are real, with these as real ones; then of the others."""
    is_real = shifts.imag == 0
    for own, numbers in ((is_real, shifts.real), (~is_real, shifts)):
        at = own.nonzero()[:, 0]
        if len(at):
            yield at, numbers[at]
