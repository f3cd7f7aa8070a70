"""Spectral radii by all eigenvalues of dense matrices: the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from lsc_graph.spectra.eigenvalues import eigenvalues, nearer
from lsc_graph.spectra.eigenvectors import eigenvectors
from lsc_graph.spectra.estimate import TOLERANCE, Estimate, Method


@torch.no_grad()
def dense_radius(matrices: Tensor, *, tolerance: float = TOLERANCE) -> Estimate:
    """Largest absolute eigenvalues of matrices [P, n, n], in float64.

    LAPACK's eigenvalues are those of a matrix that differs by some n eps ||M||, and the elements themselves
    are no more precise than their type; what this does to an eigenvalue is told by its condition number.
    """
    own = torch.finfo(matrices.dtype).eps if matrices.dtype != torch.float64 else 0.0
    matrices = nearer(matrices).double()
    finite = matrices.isfinite().flatten(1).all(1)
    safe = torch.where(finite[:, None, None], matrices, torch.zeros_like(matrices))
    values = eigenvalues(safe)
    radius, index = values.abs().max(1)
    conditions = eigenvectors(safe, values.gather(1, index[:, None])[:, 0]).conditions
    off = torch.linalg.matrix_norm(safe) * (own + torch.finfo(torch.float64).eps * safe.shape[-1])
    # Exactly zero is found only of what is triangular but for the order of its rows and columns.
    errors = torch.where(radius > 0, off * conditions / radius, torch.zeros_like(radius))
    radius = torch.where(finite, radius, torch.nan)
    return Estimate.of(Method.DENSE, radius, errors, tolerance=tolerance, conditions=conditions)
