"""Batches of matrices as smaller ones with the same nonzero eigenvalues, and eigenvectors of the whole ones.

M = L R has the nonzero eigenvalues of R L: from R L y = lambda y follows M (L y) = lambda (L y), and from
z^H R L = lambda z^H that (z^H R) M = lambda (z^H R).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lsc_graph.spectra.balancing import balancing
from lsc_graph.spectra.eigenvectors import times

# What is left of rows that are sums of others, next to the whole matrix: rounding of float32.
_ROUNDING = 1e-6
# Random vectors that rows are seen by, beside one for each state; what makes rows of zeros no matter.
_MORE_VECTORS, _RIDGE = 6, 1e-14
# Larger shares would multiply the rounding of what they are shares of.
_LARGEST_SHARE = 100.0


@dataclass(frozen=True)
class Matrices:
    """[P, n, n] as they are."""

    matrices: Tensor

    def __len__(self) -> int:
        return len(self.matrices)

    @property
    def size(self) -> int:
        """Of the smaller matrices."""
        return self.matrices.shape[-1]

    def small(self, dtype: torch.dtype) -> Tensor:
        """R L [P, k, k]."""
        return self.matrices.to(dtype)

    def right(self, vectors: Tensor) -> Tensor:
        """L y [P, n] (complex)."""
        return vectors

    def left(self, vectors: Tensor) -> Tensor:
        """R^H z [P, n] (complex)."""
        return vectors


@dataclass(frozen=True)
class InRange(Matrices):
    """With an orthonormal basis Q [n, k] such that M = Q Q^T M for all of them (see `reduction.py`)."""

    basis: Tensor

    @property
    def size(self) -> int:
        return self.basis.shape[1]

    def small(self, dtype: torch.dtype) -> Tensor:
        basis = self.basis.to(dtype)
        return basis.T @ (self.matrices.to(dtype) @ basis)

    def right(self, vectors: Tensor) -> Tensor:
        return vectors @ self.basis.T.to(vectors.dtype)

    def left(self, vectors: Tensor) -> Tensor:
        return times(self.matrices.double().mT, self.right(vectors))


@dataclass(frozen=True)
class Dependent(Matrices):
    """Of N units, each of whose states may be a function of its others, as a spike is of the potential.

    Rows of state d are shares [P, D, K, N] of those of the states `kept`, unit by unit.
    """

    kept: Sequence[int]
    dropped: Sequence[int]
    shares: Tensor

    @property
    def size(self) -> int:
        return len(self.kept) * self.shares.shape[-1]

    def _by_state(self, values: Tensor) -> Tensor:
        """[..., n] as [..., states, N]."""
        return values.reshape(*values.shape[:-1], -1, self.shares.shape[-1])

    def _rows(self, dtype: torch.dtype) -> Tensor:
        """R [P, k, n]."""
        return _by_unit(self.matrices, self.shares.shape[-1])[:, list(self.kept)].flatten(1, 2).to(dtype)

    def small(self, dtype: torch.dtype) -> Tensor:
        columns = self._by_state(self._rows(dtype))
        added = torch.einsum("prdi,pdki->prki", columns[:, :, list(self.dropped)], self.shares.to(dtype))
        return (columns[:, :, list(self.kept)] + added).flatten(2)

    def right(self, vectors: Tensor) -> Tensor:
        kept = self._by_state(vectors)
        found = kept.new_zeros(len(kept), len(self.kept) + len(self.dropped), kept.shape[-1])
        found[:, list(self.kept)] = kept
        found[:, list(self.dropped)] = torch.einsum("pki,pdki->pdi", kept, self.shares.to(kept.dtype))
        return found.flatten(1)

    def left(self, vectors: Tensor) -> Tensor:
        return times(self._rows(torch.float64).mT, vectors)


def dependent_states(matrices: Tensor, num_units: int) -> tuple[int, ...]:
    """Which states of so many units are functions of the others, as the first of matrices [P, n, n] says.

    Of states that are functions of each other, that of the smallest shares: a spike that hardly answers is a
    small share of the potential, which is a large one of the spike.
    """
    dropped: tuple[int, ...] = ()
    while True:
        left = [state for state in range(matrices.shape[-1] // num_units) if state not in dropped]
        found = {state: without(matrices[:1], num_units, (*dropped, state)) for state in left}
        largest = {state: float(own.shares.abs().max()) for state, own in found.items() if own is not None}
        if not largest:
            return dropped
        dropped = tuple(sorted((*dropped, min(largest, key=lambda state: largest[state]))))


def without(matrices: Tensor, num_units: int, dropped: Sequence[int]) -> Dependent | None:
    """Matrices [P, n, n] without states that are functions of the others.

    None where no state is, or one of them is none at some of the points.
    """
    kept = [own for own in range(matrices.shape[-1] // num_units) if own not in dropped]
    if not (dropped and kept):
        return None
    seen, scales = _seen(matrices, num_units)
    shares = _shares(seen[:, kept], seen[:, list(dropped)])
    if shares is None:
        return None
    shares *= scales[:, list(dropped), None] / scales[:, None, kept]
    return Dependent(matrices, kept, dropped, shares)


def _seen(matrices: Tensor, num_units: int) -> tuple[Tensor, Tensor]:
    """What rows make of random vectors [P, states, N, V], next to each whole matrix, in units that fit it.

    And these units [P, states, N], by which rows and columns are about as long: states may be in any.
    """
    num_vectors = _MORE_VECTORS + matrices.shape[-1] // num_units
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(matrices.shape[-1], num_vectors, dtype=torch.float64, generator=generator)
    whole, scales = balancing(matrices)
    lengths = torch.linalg.matrix_norm(whole.double(), keepdim=True) * num_vectors**0.5
    products = matrices.double() @ (scales[:, :, None] * vectors) / scales[:, :, None]
    seen = products / torch.where(lengths > 0, lengths, 1.0)
    return _by_unit(seen, num_units), scales.double().reshape(len(scales), -1, num_units)


def _by_unit(rows: Tensor, num_units: int) -> Tensor:
    """[P, n, m] as [P, states, N, m]."""
    return rows.reshape(len(rows), -1, num_units, rows.shape[-1])


def _shares(own: Tensor, other: Tensor) -> Tensor | None:
    """Of rows [P, K, N, V] in others [P, D, N, V], by least squares [P, D, K, N]; None if these are no sums.

    Nor are they where shares are so large that rounding would be.
    """
    gram = (own[:, :, None] * own[:, None]).sum(-1).movedim(-1, 1)
    overlap = (own[:, :, None] * other[:, None]).sum(-1).movedim(-1, 1)
    ridge = _RIDGE * gram.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) + torch.finfo(gram.dtype).tiny
    gram.diagonal(dim1=-2, dim2=-1).add_(ridge)
    shares: Tensor = torch.linalg.solve_ex(gram, overlap)[0].permute(0, 3, 2, 1)
    rest = other - (shares[..., None] * own[:, None]).sum(2)
    is_made_up = (rest.flatten(1).norm(dim=1) <= _ROUNDING).all() & (shares.abs() <= _LARGEST_SHARE).all()
    return shares if bool(is_made_up) else None
