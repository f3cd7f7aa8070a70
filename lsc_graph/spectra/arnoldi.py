"""Spectral radii by Arnoldi's method, batched over points, with thick restarts.

A Krylov basis V [m+1, n] of every point obeys M V_m^T = V_(m+1)^T H with H [m+1, m]; the eigenvalues of
the square part of H approach the outer ones of M. A restart keeps the span of the dominant Ritz vectors
(K. Wu and H. Simon, "Thick-restart Lanczos method for large symmetric eigenvalue problems", SIAM J. Matrix
Anal. Appl. 2000; for nonsymmetric matrices it is Stewart's Krylov-Schur method with another basis of the same
space). M is used through its products alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lsc_graph.spectra.eigenvectors import eigenvectors
from lsc_graph.spectra.estimate import TOLERANCE, Estimate, Method
from lsc_graph.spectra.operator import Operator, dense_operator

MAX_BASIS = 160
_STRIDE = 32
# Ritz vectors kept at a restart, as a fraction of the basis.
_KEPT = 0.4
# Beyond this condition number Ritz values stand still long before they are right.
ILL_CONDITIONED = 50.0
# Above this relative error a Ritz value is not near any one eigenvalue: it may stand still among many.
_RESOLVED = 0.05


@dataclass
class Krylov:
    """Bases [P, m+1, n] and Hessenberg-like matrices [P, m+1, m]; the first `size` columns are filled.

    M V[:size]^T = V[:size+1]^T H[:size+1, :size] for every point.
    """

    basis: Tensor
    matrix: Tensor
    size: int

    @staticmethod
    def start(operator: Operator, max_size: int, generator: torch.Generator) -> Krylov:
        """From a random unit vector."""
        points, size = operator.num_points, operator.size
        basis = torch.zeros(points, max_size + 1, size, dtype=operator.dtype, device=operator.device)
        first = torch.randn(points, size, dtype=torch.float64, generator=generator).to(basis)
        basis[:, 0] = first / first.norm(dim=1, keepdim=True)
        matrix = torch.zeros(points, max_size + 1, max_size, dtype=operator.dtype, device=operator.device)
        return Krylov(basis, matrix, 0)

    def grow(self, operator: Operator, size: int) -> None:
        """Up to `size` vectors, each orthogonalised twice by classical Gram-Schmidt."""
        tiny = 10 * torch.finfo(self.basis.dtype).eps
        for column in range(self.size, size):
            before = self.basis[:, : column + 1]
            vector = operator.apply(self.basis[:, column])[:, None]
            length = vector.norm(dim=2)
            for _ in range(2):
                overlap = torch.bmm(vector, before.transpose(1, 2))
                vector = torch.baddbmm(vector, overlap, before, alpha=-1)
                self.matrix[:, : column + 1, column] += overlap[:, 0]
            rest = vector.norm(dim=2)
            # Where nothing new is left, the space is invariant: a zero vector goes on in place of noise.
            rest = torch.where(rest > tiny * length, rest, torch.zeros_like(rest))
            self.matrix[:, column + 1, column] = rest[:, 0]
            safe = torch.where(rest > 0, rest, torch.full_like(rest, torch.inf))
            self.basis[:, column + 1] = vector[:, 0] / safe
        self.size = size

    def restarted(self, kept: int) -> None:
        """Keep the span of `kept` dominant Ritz vectors, one less where a complex pair would be parted."""
        size = self.size
        turn = _dominant_span(self.matrix[:, :size, :size].double().cpu(), kept).to(self.matrix)
        last = self.matrix[:, size : size + 1, :size] @ turn
        square = turn.transpose(1, 2) @ self.matrix[:, :size, :size] @ turn
        spanned = turn.transpose(1, 2) @ self.basis[:, :size]
        residual = self.basis[:, size].clone()
        self.basis.zero_()
        self.matrix.zero_()
        self.basis[:, :kept], self.basis[:, kept] = spanned, residual
        self.matrix[:, :kept, :kept] = square
        self.matrix[:, kept, :kept] = last[:, 0]
        self.size = kept


def _dominant_span(matrices: Tensor, kept: int) -> Tensor:
    """Orthonormal real bases [P, m, kept] of the spans of dominant eigenvectors; a column may be zero."""
    values, vectors = torch.linalg.eig(matrices.nan_to_num(0.0, 0.0, 0.0))
    order = values.abs().argsort(dim=1, descending=True, stable=True)
    values = values.gather(1, order)
    vectors = vectors.gather(2, order[:, None, :].expand_as(vectors))[:, :, :kept]
    last, after = values[:, kept - 1], values[:, kept]
    is_parted = (last.imag != 0) & torch.isclose(last.conj(), after, rtol=1e-9, atol=0.0)
    both = torch.cat([vectors.real, vectors.imag], 2)
    both[:, :, kept - 1] = torch.where(is_parted[:, None], 0.0, both[:, :, kept - 1])
    both[:, :, 2 * kept - 1] = torch.where(is_parted[:, None], 0.0, both[:, :, 2 * kept - 1])
    left, sizes, _ = torch.linalg.svd(both, full_matrices=False)
    basis, sizes = left[:, :, :kept], sizes[:, :kept]
    return torch.where((sizes > 1e-10 * sizes[:, :1])[:, None, :], basis, torch.zeros_like(basis))


@torch.no_grad()
def arnoldi_radius(
    operator: Operator,
    *,
    tolerance: float = TOLERANCE,
    max_basis: int = MAX_BASIS,
    max_restarts: int = 4,
    enough: float = 1.0,
    seed: int = 0,
) -> Estimate:
    """Spectral radii of a batch of operators.

    The error of a Ritz value is estimated by its residual times its condition number within the Krylov space,
    or by what the last vectors changed, extrapolated as if convergence were only algebraic,
    whichever is less; what rounding does is added. On CUDA the host waits
    for the device once for every `max_basis` products.

    Args:
        operator: the maps.
        tolerance: relative error to stop at.
        max_basis: vectors kept for every point.
        max_restarts: how often to go on from the dominant Ritz vectors.
        enough: stop without restart once this fraction of the points has converged.
        seed: of the starting vectors.
    """
    if not operator.num_points:
        return Estimate.empty()
    max_basis = min(max_basis, operator.size)
    krylov = Krylov.start(operator, max_basis, torch.Generator().manual_seed(seed))
    best: Estimate | None = None
    for attempt in range(1 + max_restarts):
        before: Tensor | None = None
        for size in _checkpoints(krylov.size, max_basis, operator.device.type):
            stride = size - krylov.size
            krylov.grow(operator, size)
            found = _ritz(krylov, operator, before, stride, tolerance)
            before = found.values
            best = found if best is None else best.where_better(torch.arange(len(best)), found)
            if float(best.converged.double().mean()) >= (enough if attempt or size >= 64 else 1.0):
                return best
        if krylov.size >= operator.size:
            break
        if attempt < max_restarts:
            krylov.restarted(max(2, int(_KEPT * max_basis)))
    assert best is not None
    return best


@torch.no_grad()
def dominant_values(matrices: Tensor, *, seed: int = 0) -> Tensor:
    """Approximate dominant eigenvalues [P] (complex128) of matrices [P, n, n], for eigenvectors to refine."""
    operator = dense_operator(matrices)
    size = min(2 * MAX_BASIS, operator.size)
    krylov = Krylov.start(operator, size, torch.Generator().manual_seed(seed))
    krylov.grow(operator, size)
    values = torch.linalg.eigvals(krylov.matrix[:, :size, :size].double().nan_to_num(0.0, 0.0, 0.0))
    top: Tensor = values.gather(1, values.abs().argmax(1)[:, None])[:, 0]
    return top


def _checkpoints(start: int, stop: int, device: str) -> list[int]:
    """Basis sizes at which to look: often where that is cheap, once where it stalls the device."""
    return [stop] if device != "cpu" else [*range(start + _STRIDE, stop, _STRIDE), stop]


def _ritz(
    krylov: Krylov, operator: Operator, before: Tensor | None, stride: int, tolerance: float
) -> Estimate:
    """The dominant Ritz values, their estimated errors and condition numbers."""
    size = krylov.size
    whole = krylov.matrix[:, : size + 1, :size].double().cpu()
    finite = whole.isfinite().flatten(1).all(1)
    whole = torch.where(finite[:, None, None], whole, torch.zeros_like(whole))
    square, last = whole[:, :size], whole[:, size]
    values = torch.linalg.eigvals(square)
    radius, index = values.abs().max(1)
    pair = eigenvectors(square, values.gather(1, index[:, None])[:, 0])
    residual = (last.to(pair.right.dtype) * pair.right).sum(1).abs()
    safe = torch.where(radius > 0, radius, torch.ones_like(radius))
    errors = pair.conditions * residual / safe
    if before is not None:
        change = (radius - before).abs() / safe * (size / stride)
        trusted = (pair.conditions < ILL_CONDITIONED) & (errors < _RESOLVED)
        errors = torch.where(trusted, torch.minimum(errors, change), errors)
    # The true condition number is larger than that within the Krylov space, the more so the worse it is.
    distrust = (pair.conditions / ILL_CONDITIONED).clamp_min(1.0).square()
    errors = errors * distrust
    norms = torch.linalg.matrix_norm(whole)
    errors = errors + pair.conditions * torch.finfo(operator.dtype).eps * norms / safe
    # A nilpotent matrix has no radius to be relative to, and rounding decides what is found.
    errors = torch.where((radius > 0) | (norms == 0), errors, torch.inf)
    errors = torch.where((norms == 0) & finite, torch.zeros_like(errors), errors)
    radius = torch.where(finite, radius, torch.nan)
    return Estimate.of(Method.ARNOLDI, radius, errors, tolerance=tolerance, conditions=pair.conditions)
