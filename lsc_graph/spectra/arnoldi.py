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

from lsc_graph.spectra.estimate import TOLERANCE, Estimate, Method
from lsc_graph.spectra.handed import handed
from lsc_graph.spectra.operator import Operator, divided

# With more vectors, their eigenvalues take longer than the products that a restart costs: up to a size of the
# matrices, and beyond it.
MAX_BASIS, LARGE, MAX_BASIS_OF_LARGE = 112, 768, 80
_STRIDE = 16
# Ritz vectors kept at a restart, as a fraction of the basis.
_KEPT = 0.4
# Beyond this condition number Ritz values stand still long before they are right.
ILL_CONDITIONED = 50.0
# Above this relative error a Ritz value is not near any one eigenvalue: it may stand still among many.
_RESOLVED = 0.02
# Ritz values of at least this fraction of the largest may belong to eigenvalues that are larger still.
_NEAR = 0.9
# Below this one a Ritz value stands still whether or not it is the largest.
_LOCKED = 1e-3
# How far from invariant the space kept at a restart may be.
_MAX_DEFECT = 1e-4
# How many points tell whether it is time to look at all of them.
NUM_SCOUTS = 4
# A vector of which less than this is left is orthogonalised once more (the criterion of Kahan and Parlett).
_CANCELLED = 0.5**0.5
# Bases of more points than fit into a processor's cache are grown one group after another.
_MAX_BASIS_BYTES = {"cpu": 2**25, "cuda": 2**30}


@dataclass
class Krylov:
    """Bases [P, m+1, n] and Hessenberg-like matrices [P, m+1, m]; the first `size` columns are filled.

    M V[:size]^T = V[:size+1]^T H[:size+1, :size] for every point, M being a map over its scale [P].
    """

    basis: Tensor
    matrix: Tensor
    size: int
    scales: Tensor
    is_restarted: bool = False

    @staticmethod
    def start(
        operator: Operator, max_size: int, generator: torch.Generator, *, is_same: bool = False
    ) -> Krylov:
        """From random unit vectors, which may be the same one for all points."""
        points, size = operator.num_points, operator.size
        basis = torch.zeros(points, max_size + 1, size, dtype=operator.dtype, device=operator.device)
        first = torch.randn(1 if is_same else points, size, dtype=torch.float64, generator=generator)
        first = handed(first, basis.device, basis.dtype)
        basis[:, 0] = first / first.norm(dim=1, keepdim=True)
        matrix = torch.zeros(points, max_size + 1, max_size, dtype=operator.dtype, device=operator.device)
        return Krylov(basis, matrix, 0, torch.ones_like(basis[:, 0, 0]))

    def grow(self, operator: Operator, size: int) -> None:
        """Up to `size` vectors, each orthogonalised by classical Gram-Schmidt, twice where much cancels."""
        tiny = 10 * torch.finfo(self.basis.dtype).eps
        for column in range(self.size, size):
            before = self.basis[:, : column + 1]
            vector = operator.apply(self.basis[:, column])[:, None]
            length = vector.norm(dim=2)
            vector, rest = self._orthogonalised(vector, before, column)
            # Once leaves an error that restarts would let grow; off the CPU it is quicker not to ask.
            twice = self.is_restarted or vector.device.type != "cpu"
            if twice or bool((rest < _CANCELLED * length).any()):
                vector, rest = self._orthogonalised(vector, before, column)
            # Where nothing new is left, the space is invariant: a zero vector goes on in place of noise.
            rest = torch.where(rest > tiny * length, rest, torch.zeros_like(rest))
            self.matrix[:, column + 1, column] = rest[:, 0]
            safe = torch.where(rest > 0, rest, torch.full_like(rest, torch.inf))
            self.basis[:, column + 1] = vector[:, 0] / safe
        self.size = size

    def _orthogonalised(self, vector: Tensor, before: Tensor, column: int) -> tuple[Tensor, Tensor]:
        """What is left of vectors [P, 1, n], and its length [P, 1]; the rest goes into `matrix`."""
        overlap = torch.bmm(vector, before.mH)
        vector = torch.baddbmm(vector, overlap, before, alpha=-1)
        self.matrix[:, : column + 1, column] += overlap[:, 0]
        return vector, vector.norm(dim=2)

    def at(self, numbers: Tensor) -> Krylov:
        """That of some of the points."""
        here = handed(numbers, self.basis.device)
        return Krylov(self.basis[here], self.matrix[here], self.size, self.scales[here], self.is_restarted)

    def restarted(self, kept: int) -> None:
        """Keep the span of `kept` dominant Ritz vectors, one less where a complex pair would be parted."""
        size = self.size
        turn = _dominant_span(self.matrix[:, :size, :size].double().cpu(), kept)
        turn = handed(turn, self.matrix.device, self.matrix.dtype)
        last = self.matrix[:, size : size + 1, :size] @ turn
        turned = self.matrix[:, :size, :size] @ turn
        square = turn.transpose(1, 2) @ turned
        # Eigenvectors that are nearly dependent span no invariant space: there is nothing to go on from.
        defect = torch.linalg.matrix_norm(turned - turn @ square) / torch.linalg.matrix_norm(turned)
        square = torch.where((defect < _MAX_DEFECT)[:, None, None], square, torch.nan)
        spanned = turn.transpose(1, 2) @ self.basis[:, :size]
        residual = self.basis[:, size].clone()
        self.basis.zero_()
        self.matrix.zero_()
        self.basis[:, :kept], self.basis[:, kept] = spanned, residual
        self.matrix[:, :kept, :kept] = square
        self.matrix[:, kept, :kept] = last[:, 0]
        self.size, self.is_restarted = kept, True


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
    max_basis: int | None = None,
    max_restarts: int = 4,
    seed: int = 0,
) -> Estimate:
    """Spectral radii of a batch of operators; points that have converged are iterated on no longer.

    The error of a Ritz value is estimated by its residual times its condition number within the Krylov space,
    and by how far the residuals of others would let them overtake it; or by what the last vectors changed,
    extrapolated as if convergence were only algebraic, whichever is less; what rounding does is added. It is
    for the CPU: to look often costs little there, and would make the host wait for another device, for which
    there are `lsc_graph.spectra.arnoldi_once` and `lsc_graph.spectra.krylov_powers`.

    No number of products below n tells a Jordan block of size n from a circulant matrix, whose radius is
    another: `lsc_graph.spectra.choose` has one point of a batch confirmed by its powers.

    Args:
        operator: the maps.
        tolerance: relative error to stop at.
        max_basis: vectors kept for every point; by default as measured for the size.
        max_restarts: how often to go on from the dominant Ritz vectors.
        seed: of the starting vectors.
    """
    usual = MAX_BASIS if operator.size < LARGE else MAX_BASIS_OF_LARGE
    max_basis = min(max_basis or usual, operator.size)
    parts = point_groups(operator, max_basis)
    found = [
        _iterated(
            operator if len(parts) == 1 else operator.at(part),
            tolerance,
            max_basis,
            max_restarts,
            seed + index,
        )
        for index, part in enumerate(parts)
    ]
    return Estimate.joined(found)


@dataclass(frozen=True)
class Pairs:
    """Estimates, with the Ritz values [P] and vectors [P, n] behind them (complex128, of unit length)."""

    estimate: Estimate
    values: Tensor
    vectors: Tensor


@torch.no_grad()
def arnoldi_pairs(
    operator: Operator,
    *,
    tolerance: float = TOLERANCE,
    max_basis: int,
    max_restarts: int = 4,
    seed: int = 0,
) -> Pairs:
    """The same as `arnoldi_radius`, all points at once, with the vectors: for products that are not exact."""
    kept = _Kept(operator.num_points, operator.size)
    found = _iterated(operator, tolerance, min(max_basis, operator.size), max_restarts, seed, kept)
    return Pairs(found, kept.values, kept.vectors)


class _Kept:
    """Dominant Ritz values and vectors of points, as of the best look at each."""

    def __init__(self, num_points: int, size: int) -> None:
        self.values = torch.zeros(num_points, dtype=torch.complex128)
        self.vectors = torch.zeros(num_points, size, dtype=torch.complex128)

    def note(self, krylov: Krylov, points: Tensor, better: Tensor) -> None:
        """Those of the points [K] of a basis that are better known than before."""
        size = krylov.size
        square = krylov.matrix[:, :size, :size].double().cpu().nan_to_num(0.0, 0.0, 0.0)
        values, vectors = torch.linalg.eig(square)
        top = values.abs().argmax(1)
        for row in better.nonzero()[:, 0].tolist():
            number = int(points[row])
            ritz = vectors[row, :, top[row]] @ krylov.basis[row, :size].cpu().to(vectors.dtype)
            self.values[number] = values[row, top[row]] * float(krylov.scales[row])
            self.vectors[number] = ritz / ritz.norm().clamp_min(1e-300)


def point_groups(operator: Operator, max_basis: int) -> list[Tensor]:
    """The numbers of points whose bases are grown together."""
    bytes_each = (max_basis + 1) * operator.size * operator.dtype.itemsize
    group = max(4, _MAX_BASIS_BYTES.get(operator.device.type, 2**30) // max(bytes_each, 1))
    numbers = torch.arange(operator.num_points)
    return [part for part in torch.split(numbers, group) if len(part)]


def _iterated(
    operator: Operator,
    tolerance: float,
    max_basis: int,
    max_restarts: int,
    seed: int,
    kept: _Kept | None = None,
) -> Estimate:
    """Spectral radii of operators whose bases are grown side by side; vectors are `kept` if asked for."""
    krylov = Krylov.start(operator, max_basis, torch.Generator().manual_seed(seed))
    scales = operator.apply(krylov.basis[:, 0]).abs().amax(1)
    krylov.scales = torch.where(scales.isfinite() & (scales > 0), scales, torch.ones_like(scales))
    operator = divided(operator, krylov.scales)  # squares of tiny or huge elements leave the range of floats
    best: Estimate | None = None
    alive = torch.arange(operator.num_points)
    for attempt in range(1 + max_restarts):
        for size in _checkpoints(krylov.size, max_basis):
            krylov.grow(operator, size)
            seen = _scouts(krylov, tolerance) if size < max_basis else _ritz(krylov, tolerance)
            if size < max_basis and float(seen.converged.double().mean()) < 0.5:
                continue
            found = _ritz(krylov, tolerance) if size < max_basis else seen
            if kept is not None:
                is_new = torch.ones_like(alive, dtype=torch.bool)
                better = is_new if best is None else found.errors < best.errors[alive]
                kept.note(krylov, alive, better)
            best = found if best is None else best.where_better(alive, found)
            left = (~best.converged[alive]).nonzero()[:, 0]
            if not len(left):
                return best
            if len(left) < len(alive):
                krylov, operator, alive = krylov.at(left), operator.at(left), alive[left]
        if krylov.size >= operator.size or attempt == max_restarts:
            break
        krylov.restarted(max(2, int(_KEPT * max_basis)))
    assert best is not None
    return best


def _scouts(krylov: Krylov, tolerance: float) -> Estimate:
    """Estimates at a few points, which tell what to do with all of them: to look at all takes long."""
    num_points = krylov.basis.shape[0]
    numbers = torch.linspace(0, num_points - 1, min(NUM_SCOUTS, num_points)).long()
    at = handed(numbers, krylov.matrix.device)
    return _ritz(Krylov(krylov.basis[:0], krylov.matrix[at], krylov.size, krylov.scales[at]), tolerance)


def _checkpoints(start: int, stop: int) -> list[int]:
    """Basis sizes at which to look."""
    return [*range(start + _STRIDE, stop, _STRIDE), stop]


def _ritz(krylov: Krylov, tolerance: float) -> Estimate:
    """The dominant Ritz values, their estimated errors and condition numbers."""
    size = krylov.size
    whole = (krylov.matrix[:, : size + 1, :size].double() * krylov.scales.double()[:, None, None]).cpu()
    finite = whole.isfinite().flatten(1).all(1)
    whole = torch.where(finite[:, None, None], whole, torch.zeros_like(whole))
    square = whole[:, :size]
    moduli, residuals, every_condition = ritz_values(whole)
    radius, index = moduli.max(1)
    conditions = every_condition.gather(1, index[:, None])[:, 0].nan_to_num(torch.inf)
    residual = residuals.gather(1, index[:, None])[:, 0]
    safe = torch.where(radius > 0, radius, torch.ones_like(radius))
    near = torch.where(moduli >= _NEAR * radius[:, None], moduli + residuals, 0.0).amax(1)
    own = conditions * residual / safe
    errors = torch.maximum(own, (near - radius) / safe)
    unsure = (own > _LOCKED) & (own < _RESOLVED) & (errors > tolerance) & (conditions < ILL_CONDITIONED)
    if bool(unsure.any()) and size > 3 * _STRIDE:
        change = _last_changes(square[unsure], radius[unsure]) / safe[unsure]
        errors[unsure] = torch.minimum(errors[unsure], change)
    # The true condition number is larger than that within the Krylov space, the more so the worse it is.
    is_partial = size < krylov.basis.shape[2]
    errors = torch.where((conditions > ILL_CONDITIONED) & is_partial, torch.inf, errors)
    norms = torch.linalg.matrix_norm(whole)
    errors = errors + conditions * torch.finfo(krylov.matrix.dtype).eps * norms / safe
    # A nilpotent matrix has no radius to be relative to, and rounding decides what is found.
    errors = torch.where((radius > 0) | (norms == 0), errors, torch.inf)
    errors = torch.where((norms == 0) & finite, torch.zeros_like(errors), errors)
    radius = torch.where(finite, radius, torch.nan)
    return Estimate.of(Method.ARNOLDI, radius, errors, tolerance=tolerance, conditions=conditions)


def ritz_values(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Moduli, residuals and condition numbers [P, m] of all Ritz values, from matrices [P, m+1, m]."""
    square, last = matrix[:, :-1], matrix[:, -1]
    values, vectors = torch.linalg.eig(square)
    inverse, _ = torch.linalg.inv_ex(vectors)
    conditions = inverse.norm(dim=2) * vectors.norm(dim=1)
    residuals = (last[:, None].to(vectors.dtype) @ vectors)[:, 0].abs()
    return values.abs(), residuals, conditions


def _last_changes(square: Tensor, radius: Tensor) -> Tensor:
    """How far the radius may still go if it converges algebraically, by what the last vectors changed.

    One change may be small by chance, while the dominant Ritz values take turns.
    """
    size = square.shape[1]
    largest = torch.zeros_like(radius)
    for before in (size - _STRIDE, size - 2 * _STRIDE):
        value = torch.linalg.eigvals(square[:, :before, :before]).abs().amax(1)
        largest = torch.maximum(largest, (radius - value).abs() * (before / (size - before)))
    return largest
