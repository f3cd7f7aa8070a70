"""Spectral radii by Arnoldi's method off the CPU: bases that no restart waits for, and what confirms them.

A restart waits for eigenvectors, which the host computes; so many products more without one would need a
basis whose eigenvalues take longer. On M^8 a basis of the usual size sees as many products. The check of
single points by their powers would wait once more: all are squared in the meantime, which takes a device less
time than the host takes for the eigenvalues of the bases.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lsc_graph.spectra.estimate import TOLERANCE, Estimate
from lsc_graph.spectra.krylov_powers import MAX_SIZE, pending_krylov
from lsc_graph.spectra.operator import dense_operator, in_single
from lsc_graph.spectra.pending import together
from lsc_graph.spectra.powers import pending_powers

# With fewer vectors even small matrices whose eigenvalues crowd at the edge are not resolved.
_MIN_SIZE = 48


@torch.no_grad()
def arnoldi_once(matrices: Tensor, *, tolerance: float = TOLERANCE) -> Estimate:
    """Spectral radii of matrices [P, n, n], converged only where the point's own powers bear them out.

    The host waits for the device once, whether or not all points converge.

    Args:
        matrices: the batch.
        tolerance: relative error that counts as converged.
    """
    unit, scales = in_single(matrices)
    size = unit.shape[-1]
    basis = min(size, MAX_SIZE, max(_MIN_SIZE, size // 2))
    krylov = pending_krylov(dense_operator(unit), basis, tolerance=tolerance)
    krylov = krylov if scales is None else krylov.scaled(scales)
    found, powers = together(krylov, pending_powers(matrices, tolerance=tolerance, is_long=True))
    return _borne_out(found, powers, tolerance)


def _borne_out(estimate: Estimate, powers: Estimate, tolerance: float) -> Estimate:
    """Estimates, converged only where powers have converged to the same; zero where these are zero."""
    is_zero = (powers.values == 0) & (powers.errors == 0)
    errors = torch.where(is_zero, 0.0, estimate.errors)
    off = (powers.values - estimate.values).abs()
    agrees = powers.converged & (off <= (powers.errors + errors + tolerance) * powers.values)
    errors = torch.where(agrees, errors, torch.inf)
    return replace(estimate, errors=errors, converged=agrees & (errors <= tolerance))
