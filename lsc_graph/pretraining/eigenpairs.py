"""The derivative of a spectral radius, by the left and the right eigenvector of the dominant eigenvalue.

For a simple eigenvalue, d lambda = w^H dM v / (w^H v) (J. R. Magnus, "On differentiating eigenvalues and
eigenvectors", Econometric Theory 1985). So the radius of a matrix that is known only through its
vector products can be differentiated without differentiating an eigenvalue solver.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_SHIFT = 1e-7
_NUM_ROUNDS = 2
# Below this cosine between left and right eigenvector an eigenvalue is as good as defective.
_MIN_COSINE = 1e-5


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


def radius_direction(matrices: Tensor) -> Direction:
    """Spectral radius of square matrices [P, n, n] with its derivative."""
    matrices = matrices.double()
    eigenvalues = torch.linalg.eigvals(matrices)
    radius, index = eigenvalues.abs().max(1)
    top = eigenvalues.gather(1, index[:, None])[:, 0]
    left, right = _eigenvectors(matrices, top)
    overlap = (left.conj() * right).sum(1)
    known = (overlap.abs() > _MIN_COSINE) & (radius > 0)
    phase = top.conj() / torch.where(known, radius, torch.ones_like(radius))
    row = (phase / torch.where(known, overlap, torch.ones_like(overlap)))[:, None] * left.conj()
    rows = torch.stack([row.real, row.imag], 1)
    columns = torch.stack([right.real, -right.imag], 1)
    return Direction(radius, rows * known[:, None, None], columns * known[:, None, None], known)


def _eigenvectors(matrices: Tensor, eigenvalues: Tensor) -> tuple[Tensor, Tensor]:
    """Unit left and right eigenvectors [P, n] by inverse iteration."""
    num_points, size = matrices.shape[:2]
    scale = torch.linalg.matrix_norm(matrices).clamp_min(1e-300)
    shift = eigenvalues + _SHIFT * scale
    identity = torch.eye(size, dtype=shift.dtype, device=shift.device)
    factors, pivots, _ = torch.linalg.lu_factor_ex(matrices - shift[:, None, None] * identity)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(num_points, size, 1, dtype=torch.float64, generator=generator).to(shift)
    found = []
    for adjoint in (True, False):
        vector = start
        for _ in range(_NUM_ROUNDS):
            vector = torch.linalg.lu_solve(factors, pivots, vector, adjoint=adjoint)
            vector = vector / torch.linalg.vector_norm(vector, dim=1, keepdim=True).clamp_min(1e-300)
        found.append(vector[..., 0].nan_to_num())
    return found[0], found[1]


def gain_direction(matrices: Tensor, generator: torch.Generator) -> Direction:
    """Gain of matrices [P, n_out, n_in] with an unbiased estimate of its derivative.

    d ||M||_F = <M, dM> / ||M||_F, and <M, dM> = E (g^T dM) (M^T g) for standard normal g.
    """
    matrices = matrices.double()
    num_points, rows, columns = matrices.shape
    norm = torch.linalg.matrix_norm(matrices)
    size = (rows * columns) ** 0.25
    known = norm > 0
    probes = torch.randn(num_points, 2, rows, dtype=torch.float64, generator=generator).to(matrices)
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
