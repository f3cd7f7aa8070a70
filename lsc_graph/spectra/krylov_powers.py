"""Spectral radii by Arnoldi's method on a power of each matrix, which is known by its products alone.

Orthogonalisation and the eigenvalues of the projected matrix take longer than products that all points of a
batch share. M^8 needs an eighth of the vectors, and a relative error of its radius is an eighth of that in
the radius of M. Where eigenvalues crowd so much that this is not enough, M^32 needs fewer still, as long as
products take less time than squaring the matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lsc_graph.spectra.arnoldi import ILL_CONDITIONED, NUM_SCOUTS, Krylov, point_groups, ritz_values
from lsc_graph.spectra.estimate import TOLERANCE, Estimate, Method
from lsc_graph.spectra.handed import handed
from lsc_graph.spectra.operator import Operator
from lsc_graph.spectra.pending import Pending


@dataclass(frozen=True)
class _Stage:
    """A power, and the basis sizes at which to look."""

    power: int
    sizes: tuple[int, ...]


_FIRST = _Stage(8, (24, 32, 48, 64, 80, 96))
# At what is left, where the matrices have this size at least.
_SECOND, _SECOND_FROM = _Stage(32, (24, 32, 48)), 768
MAX_SIZE = _FIRST.sizes[-1]
# Where so many vectors are not enough for matrices this many times as large, squaring these takes less time.
_LEAST_RATIO = 5
# Parts of a basis whose values tell how the radius converges, where the basis has this size at least: with
# fewer parts or vectors, values that stand still by chance are taken for the radius.
_PARTS = (0.8, 0.75, 0.625, 0.5, 0.4)
_TELLING = 48


@torch.no_grad()
def krylov_power_radius(operator: Operator, *, tolerance: float = TOLERANCE, seed: int = 0) -> Estimate:
    """Spectral radii of a batch of operators; points that have converged are iterated on no longer.

    The error, over the power, is the residual times the condition number, or how far the residuals of others
    would let them overtake, if that is more; or what the last vectors changed, extrapolated as if convergence
    were only algebraic, whichever is less. Off the CPU the host waits for the device once.

    Args:
        operator: the maps.
        tolerance: relative error to stop at.
        seed: of the starting vectors.
    """
    found = _grouped(operator, _FIRST, tolerance, seed)
    left = (~found.converged & found.values.isfinite()).nonzero()[:, 0]
    if not len(left) or operator.size < _SECOND_FROM or operator.device.type != "cpu":
        return found
    return found.where_better(left, _grouped(operator.at(left), _SECOND, tolerance, seed))


def _grouped(operator: Operator, stage: _Stage, tolerance: float, seed: int) -> Estimate:
    parts = point_groups(operator, stage.sizes[-1])
    return Estimate.joined(
        [
            _iterated(operator if len(parts) == 1 else operator.at(part), stage, tolerance, seed + index)
            for index, part in enumerate(parts)
        ]
    )


def _iterated(operator: Operator, stage: _Stage, tolerance: float, seed: int) -> Estimate:
    """Spectral radii of operators whose bases are grown side by side."""
    most = max(stage.sizes[0], operator.size // _LEAST_RATIO)
    sizes = sorted({min(size, operator.size) for size in stage.sizes if size <= most})
    if operator.device.type != "cpu":
        return pending_krylov(operator, sizes[-1], tolerance=tolerance, seed=seed).estimate()
    krylov = Krylov.start(operator, sizes[-1], torch.Generator().manual_seed(seed))
    scales, is_gone = _growth(operator, krylov.basis[:, 0])
    if bool(is_gone.any()):
        return _without(is_gone, lambda rest: _iterated(operator.at(rest), stage, tolerance, seed))
    best: Estimate | None = None
    alive = torch.arange(operator.num_points)
    for size in sizes:
        krylov.grow(_power(operator, scales, stage.power), size)
        if size < sizes[-1] and not _is_time(krylov, scales, stage.power, tolerance):
            continue
        found = _looked_at(krylov, scales, stage.power, tolerance).estimate()
        best = found if best is None else best.where_better(alive, found)
        left = (~best.converged[alive]).nonzero()[:, 0]
        if not len(left):
            break
        if len(left) < len(alive):
            krylov, operator, alive = krylov.at(left), operator.at(left), alive[left]
            scales = scales[handed(left, scales.device)]
    assert best is not None
    return best


@torch.no_grad()
def pending_krylov(operator: Operator, size: int, *, tolerance: float = TOLERANCE, seed: int = 0) -> Pending:
    """Spectral radii by one basis of so many vectors, to be read by the host.

    Args:
        operator: the maps.
        size: of the bases.
        tolerance, seed: as of `krylov_power_radius`.
    """
    krylov = Krylov.start(operator, size, torch.Generator().manual_seed(seed))
    scales, _ = _growth(operator, krylov.basis[:, 0])
    krylov.grow(_power(operator, scales, _FIRST.power), size)
    return _looked_at(krylov, scales, _FIRST.power, tolerance)


def _power(operator: Operator, scales: Tensor, power: int) -> Operator:
    """(M / scale)^power at every point."""

    def apply(vectors: Tensor) -> Tensor:
        for _ in range(power):
            vectors = operator.apply(vectors) / scales[:, None]
        return vectors

    return replace(operator, apply=apply)


def _without(is_gone: Tensor, find: Callable[[Tensor], Estimate]) -> Estimate:
    """Zero where powers take random vectors to exactly nothing, as chains of shifts do; the rest is found."""
    rest, gone = (~is_gone).nonzero()[:, 0], is_gone.nonzero()[:, 0]
    zero = torch.zeros(len(gone), dtype=torch.float64)
    parts = [Estimate.of(Method.ARNOLDI, zero, zero, tolerance=0.0)]
    if len(rest):
        parts.append(find(rest))
    return Estimate.joined(parts).at(torch.argsort(torch.cat([gone, rest])))


def _growth(operator: Operator, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """About by how much each map lengthens vectors [P, n] after some steps; 1 where that is no number.

    And whether nothing at all is left of the vectors, none of whose elements was too small to be held.
    """
    growth = torch.ones_like(vectors[:, 0])
    is_held = torch.ones_like(growth, dtype=torch.bool)
    least = torch.finfo(vectors.dtype).tiny ** 0.5
    for _ in range(_FIRST.power):
        vectors = operator.apply(vectors)
        growth = vectors.abs().amax(1)
        growth = torch.where(growth.isfinite() & (growth > 0), growth, torch.ones_like(growth))
        is_held &= ((vectors == 0) | (vectors.abs() >= least * growth[:, None])).all(1)
        vectors = vectors / growth[:, None]
    return growth, is_held & (vectors == 0).all(1)


def _is_time(krylov: Krylov, scales: Tensor, power: int, tolerance: float) -> bool:
    """Whether half of a few points have converged: to look at all takes long."""
    num_points = len(scales)
    at = handed(torch.linspace(0, num_points - 1, min(NUM_SCOUTS, num_points)).long(), scales.device)
    scouts = Krylov(krylov.basis[:0], krylov.matrix[at], krylov.size, krylov.scales[at])
    found = _looked_at(scouts, scales[at], power, tolerance).estimate()
    return float(found.converged.double().mean()) >= 0.5


def _looked_at(krylov: Krylov, scales: Tensor, power: int, tolerance: float) -> Pending:
    """The present bases, to be read by one transfer."""
    size = krylov.size
    is_partial = size < krylov.basis.shape[2]
    eps = torch.finfo(krylov.matrix.dtype).eps

    def read(numbers: Tensor) -> Estimate:
        whole, known = numbers[:, :-1].reshape(-1, size + 1, size), numbers[:, -1]
        return _read(whole, known, power, tolerance, eps, is_partial=is_partial)

    whole = krylov.matrix[:, : size + 1, :size].double().flatten(1)
    return Pending(torch.cat([whole, scales.double()[:, None]], 1), read)


def _read(
    whole: Tensor, known: Tensor, power: int, tolerance: float, eps: float, *, is_partial: bool
) -> Estimate:
    """The dominant Ritz values, taken to roots, and their estimated errors and condition numbers.

    Args:
        whole: the Hessenberg-like matrices [P, m+1, m] of M^power over `known`^power.
        known: positive scales [P].
        power, tolerance: which power, and the relative error that counts as converged.
        eps: of the type of the products.
        is_partial: whether the bases span less than the whole space.
    """
    finite = whole.isfinite().flatten(1).all(1) & known.isfinite()
    whole = torch.where(finite[:, None, None], whole, 0.0)
    moduli, residuals, conditions = ritz_values(whole)
    top, index = moduli.max(1)
    condition = conditions.gather(1, index[:, None])[:, 0].nan_to_num(torch.inf)
    own = condition * residuals.gather(1, index[:, None])[:, 0]
    overtaking = (moduli + residuals).amax(1) - top
    off = torch.maximum(own, overtaking)
    if whole.shape[2] >= _TELLING:
        off = torch.minimum(off, _changes(whole[:, :-1], top))
    norms = torch.linalg.matrix_norm(whole)
    errors = torch.log1p((off + power * eps * condition * norms) / top) / power
    errors = torch.where((condition > ILL_CONDITIONED) & is_partial, torch.inf, errors)
    errors = torch.where(norms == 0, torch.inf, errors)
    values = torch.where(finite, known * top ** (1 / power), torch.nan)
    return Estimate.of(Method.ARNOLDI, values, errors, tolerance=tolerance, conditions=condition)


def _changes(square: Tensor, top: Tensor) -> Tensor:
    """How far the largest modulus may still go if it converges algebraically.

    One change may be small by chance, while the dominant Ritz values take turns.
    """
    size = square.shape[1]
    largest = torch.zeros_like(top)
    for part in _PARTS:
        before = max(1, int(part * size))
        value = torch.linalg.eigvals(square[:, :before, :before]).abs().amax(1)
        largest = torch.maximum(largest, (top - value).abs() * (before / (size - before)))
    return largest
