"""Spectral radii by all eigenvalues of dense matrices: the reference."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lsc_graph.spectra.balancing import balanced, in_range
from lsc_graph.spectra.eigenvalues import eigenvalues
from lsc_graph.spectra.eigenvectors import eigenvectors
from lsc_graph.spectra.estimate import TOLERANCE, Estimate, Method
from lsc_graph.spectra.handed import handed

# Relative errors of elements, in roundings: sums in which terms cancel have lost some of their digits.
_LOST = 32


@torch.no_grad()
def dense_radius(matrices: Tensor, *, tolerance: float = TOLERANCE) -> Estimate:
    """Largest absolute eigenvalues of matrices [P, n, n], in float64.

    LAPACK's eigenvalues are those of a matrix that differs by some n eps ||M||, and the elements themselves
    are no more precise than their type; what this does to an eigenvalue is told by its condition number.
    Where that is too much, the same is asked of the balanced matrix, whose elements are as precise.
    """
    own = torch.finfo(matrices.dtype).eps if matrices.dtype != torch.float64 else 0.0
    matrices = matrices.cpu().double()
    finite = matrices.isfinite().flatten(1).all(1)
    safe = torch.where(finite[:, None, None], matrices, torch.zeros_like(matrices))
    found = _estimate(safe, finite, own, tolerance)
    rest = (~found.converged & found.values.isfinite()).nonzero()[:, 0]
    if not len(rest):
        return found
    at = handed(rest, safe.device)
    again = _estimate(balanced(safe[at]), finite[at], _LOST * own, tolerance)
    # How far a change of one given size moves the eigenvalue is asked of the matrix as it is.
    return found.where_better(rest, replace(again, conditions=found.conditions[rest]))


def _estimate(matrices: Tensor, finite: Tensor, own: float, tolerance: float) -> Estimate:
    """Radii of matrices with so large relative errors of their own; none where they are not finite."""
    matrices, scales = in_range(matrices)
    values = eigenvalues(matrices)
    radius, index = values.abs().max(1)
    conditions = eigenvectors(matrices, values.gather(1, index[:, None])[:, 0]).conditions
    off = torch.linalg.matrix_norm(matrices) * (own + torch.finfo(torch.float64).eps * matrices.shape[-1])
    # Exactly zero is found only of what is triangular but for the order of its rows and columns.
    errors = torch.where(radius > 0, off * conditions / radius, torch.zeros_like(radius))
    radius = torch.where(finite, radius * scales, torch.nan)
    return Estimate.of(Method.DENSE, radius, errors, tolerance=tolerance, conditions=conditions)
