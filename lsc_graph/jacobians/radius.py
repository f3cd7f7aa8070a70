"""Spectral radius, gain and spectral norm of batches of matrices (theory section 3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def spectral_radius(matrices: Tensor) -> Tensor:
    """Largest absolute eigenvalue of each square matrix, by dense eigenvalues in double precision.

    Args:
        matrices: [..., n, n].

    Returns:
        [...], float64.
    """
    eigenvalues: Tensor = torch.linalg.eigvals(matrices.double())
    return eigenvalues.abs().amax(-1)


def gain(matrices: Tensor) -> Tensor:
    """||M||_F / (n_out n_in)^(1/4): for square M the rms factor by which M^T changes an isotropic gradient.

    Args:
        matrices: [..., n_out, n_in].

    Returns:
        [...], float64.
    """
    rows, columns = matrices.shape[-2:]
    norms: Tensor = torch.linalg.matrix_norm(matrices.double())
    return norms / math.pow(rows * columns, 0.25)


def spectral_norm(matrices: Tensor) -> Tensor:
    """Largest singular value of each matrix [..., n_out, n_in], float64."""
    norms: Tensor = torch.linalg.matrix_norm(matrices.double(), ord=2)
    return norms
