"""Left and right eigenvectors of given eigenvalues, and how well conditioned these are.

For a simple eigenvalue lambda with unit left and right eigenvectors w, v, the condition number is 1 / |w^H v|
(G. H. Golub and C. F. Van Loan, Matrix Computations, 4th edition, 7.2.2): to first order a perturbation E
moves lambda by at most ||E|| / |w^H v|. At a defective eigenvalue w^H v = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lsc_graph.spectra.handed import handed
from lsc_graph.spectra.resolvent import Resolvent, by_type

_SHIFT = 1e-9
_NUM_ROUNDS = 3


@dataclass(frozen=True)
class Eigenvectors:
    """Unit left and right eigenvectors [P, n] (complex) of one eigenvalue of each of P matrices.

    `residuals` [P] are the larger of ||M v - lambda v|| and ||w^H M - lambda w^H||, relative to ||M||_F.
    """

    values: Tensor
    left: Tensor
    right: Tensor
    residuals: Tensor

    @property
    def cosines(self) -> Tensor:
        """|w^H v| [P]."""
        return (self.left.conj() * self.right).sum(1).abs()

    @property
    def conditions(self) -> Tensor:
        """1 / |w^H v| [P]; inf at a defective eigenvalue."""
        return 1 / self.cosines

    @staticmethod
    def joined(parts: Sequence[Eigenvectors]) -> Eigenvectors:
        """Those of several batches as of one."""
        if len(parts) == 1:
            return parts[0]
        return Eigenvectors(*(torch.cat([getattr(part, name) for part in parts]) for name in _TENSORS))

    def split(self, sizes: Sequence[int]) -> list[Eigenvectors]:
        """Those of so many matrices each."""
        parts = [torch.split(getattr(self, name), list(sizes)) for name in _TENSORS]
        return [Eigenvectors(*own) for own in zip(*parts, strict=True)]

    def with_others(self, points: Tensor, others: Eigenvectors) -> Eigenvectors:
        """With others of some of the matrices."""
        parts = [(getattr(self, name).clone(), getattr(others, name)) for name in _TENSORS]
        for own, other in parts:
            own[points] = other
        return Eigenvectors(*(own for own, _ in parts))


_TENSORS = ("values", "left", "right", "residuals")


@torch.no_grad()
def eigenvectors(matrices: Tensor, values: Tensor) -> Eigenvectors:
    """Eigenvectors of matrices [P, n, n] (float64) to eigenvalues [P], by inverse iteration.

    Those to real eigenvalues are real, and on the CPU take a third of the time.
    """
    norms = torch.linalg.matrix_norm(matrices)
    scale = torch.where(norms > 0, norms, torch.ones_like(norms))
    shift = values.to(torch.complex128) + _SHIFT * scale
    if matrices.device.type != "cpu":  # where the host would wait to be told which are real
        left, right = _inverse_iterated(matrices, shift)
        return Eigenvectors(values, left, right, _residuals(matrices, values, left, right) / scale)
    left = torch.zeros(matrices.shape[:2], dtype=shift.dtype)
    right = torch.zeros_like(left)
    for at, numbers in by_type(shift):
        here = matrices if len(at) == len(matrices) else matrices[at]
        found = _inverse_iterated(here, numbers)
        left[at], right[at] = (vectors.to(shift.dtype) for vectors in found)
    return Eigenvectors(values, left, right, _residuals(matrices, values, left, right) / scale)


def _inverse_iterated(matrices: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Left and right eigenvectors [P, n] to what is next to shifts [P], of the shifts' type.

    Where several have the same eigenvalue, these are what one vector has along them, whatever the batch.
    """
    resolvent = Resolvent.of(matrices, shift)
    start = torch.randn(matrices.shape[1], 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start = handed(start, shift.device, shift.dtype).expand(len(matrices), -1, -1)
    found = []
    for adjoint in (True, False):
        vector = start
        for _ in range(_NUM_ROUNDS):
            vector = resolvent(vector, adjoint=adjoint)
            lengths = torch.linalg.vector_norm(vector, dim=1, keepdim=True)
            vector = vector / torch.where(lengths > 0, lengths, torch.ones_like(lengths))
        found.append(vector[..., 0].nan_to_num())
    return found[0], found[1]


@torch.no_grad()
def refined(matrices: Tensor, pair: Eigenvectors) -> Eigenvectors:
    """The same vectors with the eigenvalues that they give themselves, where these fit better.

    The two-sided Rayleigh quotient is off by the product of both vectors' errors only, over their overlap:
    where there is next to none, as at a defective eigenvalue, it may be anything.
    """
    overlap = (pair.left.conj() * pair.right).sum(1)
    products = times(matrices, pair.right)
    values = (pair.left.conj() * products).sum(1) / torch.where(overlap == 0, 1.0, overlap)
    norms = torch.linalg.matrix_norm(matrices)
    scale = torch.where(norms > 0, norms, torch.ones_like(norms))
    residuals = _residuals(matrices, values, pair.left, pair.right) / scale
    is_better = (residuals <= pair.residuals) & (overlap != 0)
    values = torch.where(is_better, values, pair.values)
    return Eigenvectors(values, pair.left, pair.right, torch.where(is_better, residuals, pair.residuals))


def _residuals(matrices: Tensor, values: Tensor, left: Tensor, right: Tensor) -> Tensor:
    forward = times(matrices, right) - values[:, None] * right
    backward = times(matrices.mT, left) - values.conj()[:, None] * left
    return torch.maximum(forward.norm(dim=1), backward.norm(dim=1))


def times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Real matrices [P, n, n] times complex vectors [P, n]."""
    products: Tensor = torch.view_as_complex((matrices @ torch.view_as_real(vectors)).contiguous())
    return products
