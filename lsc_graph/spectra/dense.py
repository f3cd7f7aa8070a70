"""Spectral radii by all eigenvalues of dense matrices: the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from lsc_graph.spectra.eigenvectors import eigenvectors
from lsc_graph.spectra.estimate import TOLERANCE, Estimate, Method


@torch.no_grad()
def dense_radius(matrices: Tensor, *, tolerance: float = TOLERANCE, with_condition: bool = False) -> Estimate:
    """Largest absolute eigenvalues of matrices [P, n, n], in float64.

    LAPACK's eigenvalues are those of a matrix that differs by some eps ||M||; what this does to one of them
    is told by its condition number, which costs two rounds of inverse iteration and is computed if asked for.
    """
    matrices = matrices.double()
    finite = matrices.isfinite().flatten(1).all(1)
    safe = torch.where(finite[:, None, None], matrices, torch.zeros_like(matrices))
    eigenvalues = torch.linalg.eigvals(safe)
    radius, index = eigenvalues.abs().max(1)
    radius = torch.where(finite, radius, torch.nan)
    backward = torch.finfo(torch.float64).eps * torch.linalg.matrix_norm(safe)
    conditions = torch.ones_like(radius)
    if with_condition:
        top = eigenvalues.gather(1, index[:, None])[:, 0]
        conditions = eigenvectors(safe, top).conditions
    errors = torch.where(radius > 0, backward * conditions / radius, torch.zeros_like(radius))
    known = conditions if with_condition else None
    return Estimate.of(Method.DENSE, radius, errors, tolerance=tolerance, conditions=known)
