"""Whether a spectral radius that was found is the modulus of an eigenvalue: looked up by its eigenvectors.

With unit left and right vectors w, v of residuals no longer than d, an eigenvalue is within d / |w^H v| to
first order (W. Kahan, B. N. Parlett and E. Jiang, "Residual bounds on approximate eigensystems of
nonnormal matrices", SIAM J. Numer. Anal. 1982). What Krylov spaces take for eigenvalues of far from normal
matrices has approximate eigenvectors, too: those on the left lie elsewhere than those on the right, or
residuals stay. Of a chain of n leaky units whose radius would be overestimated by a part t, no pair has
residuals below about t pi / (2 n), as waves that vanish at both ends have, and single precision does not tell
these from rounding. So pairs are refined until their residuals are next to nothing in double precision: then
there is no need to wait for powers. Factors in single precision do for that, and take a third of the time of
squaring the matrix once, or twice of it off the real axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lsc_graph.spectra.arnoldi import Krylov
from lsc_graph.spectra.eigenvalues import eigenvalues
from lsc_graph.spectra.operator import dense_operator

# Steps of a random vector, and further ones whose span tells where on its circle the eigenvalue is.
_NUM_STEPS, _BASIS = 128, 32
# Of one vector by chance next to nothing may lie along an eigenvector.
_NUM_LOOKS = 2
# Vectors iterated at once, and how often in single and, at most, in double precision.
_NUM_VECTORS, _NUM_ROUNDS, _NUM_REFINED = 16, 8, 8
_ROWS = 128
# Errors by residuals alone, relative to the eigenvalue: below this one, over the size, it is one (a twentieth
# of what a chain makes whose radius is overestimated by half a percent), and above the other there is none.
_EXACT, _HOPELESS = 4e-4, 0.1
# How far off an eigenvalue may be since elements are rounded, relative to itself.
_MAX_ROUNDING = 1e-3


@torch.no_grad()
def condition_at(matrix: Tensor, radius: float, allowed: float, *, seed: int = 1) -> float | None:
    """The condition number of an eigenvalue that a matrix [n, n] (float32, on the CPU) has for certain.

    Nor may random vectors, after some hundred steps, see a larger one.

    Args:
        matrix: which.
        radius: the modulus.
        allowed: how far the eigenvalue's may be from it, relative to it.
        seed: of the vectors.

    Returns:
        None where no eigenvalue of that modulus was found.
    """
    if not (math.isfinite(radius) and radius > 0) or len(matrix) <= _BASIS:
        return None
    unit = (matrix / radius).float()
    generator = torch.Generator().manual_seed(seed)
    tops = [_top(unit, generator) for _ in range(_NUM_LOOKS)]
    top = max(tops, key=abs)
    if not all(0 < abs(own) <= 1 + allowed for own in tops):
        return None
    # Where eigenvalues crowd, the outermost ones are looked for: estimates fall short of these.
    shift = top / abs(top) * (1 + allowed / 4)
    for values, errors, conditions in _nearest(unit, shift, generator):
        rounding = conditions * torch.finfo(unit.dtype).eps * torch.linalg.matrix_norm(unit) / values.abs()
        is_known = (errors <= _EXACT / len(matrix)) & (rounding <= _MAX_ROUNDING)
        is_one = is_known & ((values.abs() - 1).abs() <= allowed)
        if bool(is_one.any()):
            return float(conditions[is_one].max())
        if not bool((errors <= _HOPELESS).any()):
            break
    return None


def _top(matrix: Tensor, generator: torch.Generator) -> complex:
    """The largest Ritz value of a vector that has been multiplied often; nan if it vanished or was none."""
    operator = dense_operator(matrix[None])
    krylov = Krylov.start(operator, _BASIS, generator)
    vector = krylov.basis[:, 0]
    for _ in range(_NUM_STEPS):
        vector = operator.apply(vector)
        vector = vector / vector.norm()
    krylov.basis[:, 0] = vector
    krylov.grow(operator, _BASIS)
    square = krylov.matrix[:, :_BASIS].double()
    if not bool(square.isfinite().all()):
        return complex(math.nan)
    values = eigenvalues(square)[0]
    return complex(values[values.abs().argmax()])


@dataclass(frozen=True)
class _Resolvent:
    """(M - shift)^-1 in single precision, real where the shift is."""

    factors: Tensor
    pivots: Tensor

    @staticmethod
    def of(matrix: Tensor, shift: complex) -> _Resolvent:
        """Of a real matrix [n, n]."""
        is_real = shift.imag == 0
        dtype = matrix.dtype if is_real else torch.complex64
        # Column by column, as LAPACK has it: factors then take the place of the matrix.
        factors = matrix.mT.to(dtype, copy=True, memory_format=torch.contiguous_format).mT
        factors.diagonal().sub_(shift.real if is_real else shift)
        pivots, info = (torch.empty(0, dtype=torch.int32) for _ in range(2))
        torch.linalg.lu_factor_ex(factors, out=(factors, pivots, info))
        return _Resolvent(factors, pivots)

    def __call__(self, vectors: Tensor, *, adjoint: bool) -> Tensor:
        """Times vectors [n, k], which keep their type."""
        if vectors.is_complex() and not self.factors.is_complex():
            parts = torch.cat([vectors.real, vectors.imag], 1)
            return torch.complex(*self(parts, adjoint=adjoint).chunk(2, 1))
        solved = torch.linalg.lu_solve(
            self.factors, self.pivots, vectors.to(self.factors.dtype), adjoint=adjoint
        )
        found: Tensor = solved.to(vectors.dtype)
        return found


def _nearest(
    matrix: Tensor, shift: complex, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Some eigenvalues near a shift, their relative errors by residuals, and their condition numbers.

    Better ones each time, by inverse iteration.
    """
    resolvent = _Resolvent.of(matrix, shift)
    start = torch.randn(len(matrix), _NUM_VECTORS, generator=generator, dtype=torch.float64)
    start = start.to(resolvent.factors.dtype)
    left, right = (_iterated(resolvent, start, adjoint=adjoint) for adjoint in (True, False))
    for _ in range(_NUM_REFINED):
        left, right = (torch.linalg.qr(own.to(torch.complex128).nan_to_num())[0] for own in (left, right))
        times_left, times_right = _times(matrix.mT, left), _times(matrix, right)
        gram = left.mH @ right
        projected, info = torch.linalg.solve_ex(gram, left.mH @ times_right)
        if int(info) or not bool(projected.isfinite().all()):
            return
        values, turn = torch.linalg.eig(projected)
        # Rows of the inverse are left eigenvectors in these bases: every w^H v is 1.
        back = torch.linalg.inv_ex(gram @ turn)[0].mH
        right, left, lengths = right @ turn, left @ back, back.norm(dim=0)
        forward = times_right @ turn - right * values
        backward = (times_left @ back - left * values.conj()) / lengths
        left = left / lengths
        residuals = torch.maximum(forward.norm(dim=0), backward.norm(dim=0))
        yield values, (residuals * lengths / values.abs()).nan_to_num(torch.inf), lengths
        # The same as the resolvent of all, but for a factor: what is small may be off by a part of itself.
        right = right - resolvent(forward, adjoint=False)
        left = left - resolvent(backward, adjoint=True)


def _iterated(resolvent: _Resolvent, vectors: Tensor, *, adjoint: bool) -> Tensor:
    for _ in range(_NUM_ROUNDS):
        vectors = resolvent(vectors, adjoint=adjoint)
        vectors = torch.linalg.qr((vectors / vectors.abs().amax(0)).nan_to_num())[0]
    return vectors


def _times(matrix: Tensor, vectors: Tensor) -> Tensor:
    """A real matrix [n, n] times complex vectors [n, k], in double precision without a copy of it in that."""
    parts = torch.cat([vectors.real, vectors.imag], 1)
    rows = torch.cat([own.double() @ parts for own in torch.split(matrix, _ROWS)])
    return torch.complex(*rows.chunk(2, 1))
