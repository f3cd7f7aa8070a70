"""Spectral radius, gain and spectral norm of batches of matrices (theory section 3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lsc_graph.spectra.arnoldi import arnoldi_radius
from lsc_graph.spectra.eigenvalues import eigenvalues
from lsc_graph.spectra.estimate import Estimate
from lsc_graph.spectra.krylov_powers import krylov_power_radius
from lsc_graph.spectra.operator import Operator, gram_operator

# Blocks of more rows and columns than this have their norm found by Krylov iteration.
_MAX_DENSE_NORM = 192
_NORM_TOLERANCE = 1e-3


def spectral_radius(matrices: Tensor) -> Tensor:
    """Largest absolute eigenvalue of each square matrix, by dense eigenvalues in double precision.

    Args:
        matrices: [..., n, n].

    Returns:
        [...], float64.
    """
    return eigenvalues(matrices).abs().amax(-1)


def gain(matrices: Tensor) -> Tensor:
    """||M||_F / (n_out n_in)^(1/4): for square M the rms factor by which M^T changes an isotropic gradient.

    Args:
        matrices: [..., n_out, n_in].

    Returns:
        [...], float64.
    """
    rows, columns = matrices.shape[-2:]
    norms: Tensor = torch.linalg.matrix_norm(matrices.double())
    return norms / gain_scale(rows, columns)


def gain_scale(rows: int, columns: int) -> float:
    """What the Frobenius norm of a matrix is divided by for its gain."""
    return math.pow(rows * columns, 0.25)


def spectral_norm(matrices: Tensor) -> Tensor:
    """Largest singular value of each matrix [..., n_out, n_in], float64 on the CPU; nan where not finite.

    Large ones by Krylov iteration on the smaller Gram matrix, where its error is at most 1e-3; else by SVD.
    """
    flat = matrices.flatten(0, -3) if matrices.dim() > 2 else matrices[None]
    if min(flat.shape[1:]) > _MAX_DENSE_NORM:
        found = _gram_radius(gram_operator(flat))
        if bool(found.converged.all()):
            return found.values.sqrt().reshape(matrices.shape[:-2])
    is_finite = flat.isfinite().flatten(1).all(1)
    # LAPACK fails where a matrix is not finite; one that overflowed is for the gradients to tell.
    whole = torch.where(is_finite[:, None, None], flat, 0).cpu().double()
    norms: Tensor = torch.linalg.matrix_norm(whole, ord=2)
    return torch.where(is_finite.to(norms.device), norms, torch.nan).cpu().reshape(matrices.shape[:-2])


def _gram_radius(operator: Operator) -> Estimate:
    """Squares of the largest singular values; off the CPU without restarts, which the host would wait for."""
    if operator.device.type != "cpu":
        return krylov_power_radius(operator, tolerance=_NORM_TOLERANCE)
    return arnoldi_radius(operator, tolerance=_NORM_TOLERANCE, max_basis=64, max_restarts=1)
