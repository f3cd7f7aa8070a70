"""The derivative of a spectral radius, by the left and the right eigenvector of the dominant eigenvalue.

For a simple eigenvalue, d lambda = w^H dM v / (w^H v) (J. R. Magnus, "On differentiating eigenvalues and
eigenvectors", Econometric Theory 1985). So the radius of a matrix that is known only through its
vector products can be differentiated without differentiating an eigenvalue solver.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lsc_graph.pretraining.smaller import Matrices
from lsc_graph.spectra.choose import cascade, group_size, radius_estimate, takes_points_alone
from lsc_graph.spectra.dominant import dominant_eigenvectors, is_trusted
from lsc_graph.spectra.eigenvalues import eigenvalues
from lsc_graph.spectra.eigenvectors import Eigenvectors
from lsc_graph.spectra.estimate import TOLERANCE, Method

# So near that which other matrices are in a batch changes single radii by less than 1e-4.
SAME = 2e-4


@dataclass(frozen=True)
class Direction:
    """Vectors with d value = sum_r left[r]^T dM right[r], for a batch of matrices.

    `value` is [P], `left` [P, 2, n_out], `right` [P, 2, n_in], all float64. Where the value has no
    derivative that can be trusted, the vectors are zero and `is_known` [P] is False.
    """

    value: Tensor
    left: Tensor
    right: Tensor
    is_known: Tensor


def value_alone(value: Tensor) -> Direction:
    """Values [P] whose derivative nobody asked for."""
    nothing = value.new_zeros(len(value), 2, 0)
    return Direction(value, nothing, nothing, torch.zeros_like(value, dtype=torch.bool))


def mean_direction(found: Direction, rows: Tensor, columns: Tensor) -> Direction:
    """The mean over the B entries of each of P points, from those of all [P B] of them.

    Entries do not meet, so that the vectors of all of them may stand side by side.

    Args:
        found: of matrices [P B, m_out, m_in], the entries of each point one after another.
        rows, columns: where the elements of each entry lie among those of all [B, m_out], [B, m_in].
    """
    count = len(rows)
    value, known = found.value.reshape(-1, count).mean(1), found.is_known.reshape(-1, count)
    if not found.left.shape[2]:
        return value_alone(value)
    share = 1 / known.sum(1).clamp(min=1)
    left, right = (_side_by_side(own, at) for own, at in ((found.left, rows), (found.right, columns)))
    return Direction(value, share[:, None, None] * left, right, known.any(1))


def _side_by_side(vectors: Tensor, places: Tensor) -> Tensor:
    """[P, 2, n] of the vectors [P B, 2, m] of entries that lie at [B, m]."""
    by_point = vectors.reshape(-1, len(places), *vectors.shape[1:]).movedim(1, 2)
    found = vectors.new_zeros(*by_point.shape[:2], places.numel())
    found[:, :, places.to(vectors.device)] = by_point
    return found


def radii(matrices: Tensor) -> Tensor:
    """Spectral radii [P] of square matrices [P, n, n].

    What others are in the batch hardly changes a radius: an estimator that looks at a batch as a whole is
    asked for more.
    """
    size, device = matrices.shape[-1], matrices.device.type
    is_alone = takes_points_alone(size, device)
    parts = torch.split(matrices, group_size(size, device)) if is_alone else [matrices]
    tolerance = TOLERANCE if is_alone else SAME
    return torch.cat([estimated(part, tolerance) for part in parts])


def estimated(matrices: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Spectral radii [P] of some square matrices [P, n, n], all of them finite.

    Means have errors of their own: how far off each eigenvalue may be, as rounding has it, is not asked.
    """
    if cascade(matrices.shape[-1], matrices.device.type) == (Method.DENSE,):
        return eigenvalues(matrices).abs().amax(1)
    return radius_estimate(matrices, tolerance=tolerance).values


def gains(matrices: Tensor) -> Direction:
    """||M||_F / (n_out n_in)^(1/4) of matrices [P, n_out, n_in], without derivative."""
    norm = torch.linalg.matrix_norm(matrices.double())
    return value_alone(norm / (matrices.shape[1] * matrices.shape[2]) ** 0.25)


def radius_direction(matrices: Tensor) -> Direction:
    """Spectral radius of square matrices [P, n, n] with its derivative."""
    return direction_by_pair(dominant_eigenvectors(matrices.double()), Matrices(matrices))


def direction_by_pair(pair: Eigenvectors, matrices: Matrices) -> Direction:
    """The same of matrices by eigenvectors of smaller ones, which are known."""
    top, radius, known = pair.values, pair.values.abs(), is_trusted(pair)
    left, right = matrices.left(pair.left), matrices.right(pair.right)
    overlap = (left.conj() * right).sum(1)
    known &= overlap != 0
    phase = top.conj() / torch.where(known, radius, torch.ones_like(radius))
    row = (phase / torch.where(known, overlap, torch.ones_like(overlap)))[:, None] * left.conj()
    rows = torch.stack([row.real, row.imag], 1)
    columns = torch.stack([right.real, -right.imag], 1)
    return Direction(radius, rows * known[:, None, None], columns * known[:, None, None], known)


def unit_radii(units: Tensor) -> Direction:
    """Radii of matrices of one k x k block for each of N units, [P, N, k, k], without derivative."""
    return value_alone(_moduli(units).amax(1))


def unit_direction(units: Tensor) -> Direction:
    """The radius of such matrices with its derivative; the states are k variables of N units each."""
    num_points, count, width = units.shape[:3]
    every = torch.arange(num_points)
    which = _moduli(units).argmax(1)
    found = radius_direction(units[every, which])
    vectors = []
    for small in (found.left, found.right):
        full = small.new_zeros(num_points, 2, width, count)
        full[every, :, :, which] = small
        vectors.append(full.flatten(2))
    return Direction(found.value, vectors[0], vectors[1], found.is_known)


def _moduli(units: Tensor) -> Tensor:
    """The largest modulus of each unit's eigenvalues, [P, N]."""
    return eigenvalues(units).abs().amax(2)


def gain_direction(
    matrices: Tensor, generators: Sequence[torch.Generator], sizes: Sequence[int] | None = None
) -> Direction:
    """Gain of matrices [P, n_out, n_in] with an unbiased estimate of its derivative.

    d ||M||_F = <M, dM> / ||M||_F, and <M, dM> = E (g^T dM) (M^T g) for standard normal g.

    Args:
        matrices: the batch.
        generators: of g, for each sample.
        sizes: how many points each sample has; one sample's where it is None.
    """
    matrices = matrices.double()
    rows, columns = matrices.shape[1:]
    norm = torch.linalg.matrix_norm(matrices)
    size = (rows * columns) ** 0.25
    known = norm > 0
    drawn = [
        torch.randn(size, 2, rows, dtype=torch.float64, generator=generator)
        for size, generator in zip(sizes or [len(matrices)], generators, strict=True)
    ]
    probes = torch.cat(drawn).to(matrices)
    safe = torch.where(known, norm, torch.ones_like(norm))
    pulled = probes @ matrices / (2 * safe * size)[:, None, None]
    return Direction(norm / size, probes * known[:, None, None], pulled, known)


def probed_gain_direction(probes: Tensor, pulled: Tensor, num_rows: int) -> Direction:
    """Gain of matrices that are too large to be written out, from M^T g for standard normal g.

    E ||M^T g||^2 = ||M||_F^2; the derivative is that of `gain_direction`, by the first two probes.

    Args:
        probes: g, [P, R, n_out].
        pulled: M^T g, [P, R, n_in].
        num_rows: n_out.
    """
    pulled, probes = pulled.double(), probes.double()
    norm = pulled.square().sum(2).mean(1).sqrt()
    size = (num_rows * pulled.shape[2]) ** 0.25
    known = norm > 0
    safe = torch.where(known, norm, torch.ones_like(norm))
    right = pulled[:, :2] / (2 * safe * size)[:, None, None]
    return Direction(norm / size, probes[:, :2] * known[:, None, None], right, known)
