"""Spectral radii by repeated squaring, in ratio form.

(||M^(2^k)||_F / ||M^(2^(k-1))||_F)^(1 / 2^(k-1)) tends to the spectral radius. In the ratio a transient
growth of the powers cancels, which in Gelfand's ||M^m||^(1/m) only the root removes. Powers are renormalised at
every step and their logarithms kept, so that none leaves the floating-point range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lsc_graph.spectra.estimate import TOLERANCE, Estimate, Method

MAX_SQUARINGS = 14
# The dominant eigenvalues may take turns at first, so that early estimates stand still by chance.
_MIN_SQUARINGS = 9
_CERTAIN = 1e-5


@dataclass
class _Powers:
    """M^(2^k) of the points that are still at work, as unit matrices with logarithms of their norms.

    `rounding` estimates the relative error of the unit matrices that rounding has brought in.
    """

    unit: Tensor
    log_norm: Tensor
    rounding: Tensor

    def squared(self) -> _Powers:
        product = torch.bmm(self.unit, self.unit)
        norms = torch.linalg.matrix_norm(product)
        size = product.shape[-1]
        # An error without direction, rather than one aligned with the matrix, is what rounding makes.
        factor = 1 / (math.sqrt(size) * norms.double())
        fresh = torch.finfo(product.dtype).eps * factor
        unit = product / torch.where(norms > 0, norms, torch.ones_like(norms))[:, None, None]
        return _Powers(
            unit, 2 * self.log_norm + norms.double().log(), math.sqrt(2) * factor * self.rounding + fresh
        )

    def at(self, points: Tensor) -> _Powers:
        return _Powers(self.unit[points], self.log_norm[points], self.rounding[points])


def squaring_radius(
    matrices: Tensor, *, tolerance: float = TOLERANCE, dtype: torch.dtype = torch.float32
) -> Estimate:
    """Spectral radii of matrices [P, n, n].

    The error is that of the last step, in which the estimate changed by so much, and of rounding. On the CPU
    converged points leave the batch; on CUDA all stay, and the host waits for the device once, at the end.

    Args:
        matrices: the batch.
        tolerance: relative error to stop at.
        dtype: of the products.
    """
    powers = _start(matrices.to(dtype))
    num_points = matrices.shape[0]
    values = torch.full((num_points,), torch.nan, dtype=torch.float64, device=matrices.device)
    errors = torch.full_like(values, torch.inf)
    points = torch.arange(num_points, device=matrices.device)
    estimate, change = values, errors
    for number in range(MAX_SQUARINGS):
        before, squared = estimate, powers.squared()
        earlier = change
        root = 2.0**number
        estimate = ((squared.log_norm - powers.log_norm) / root).exp()
        estimate = torch.where(squared.log_norm == -torch.inf, torch.zeros_like(estimate), estimate)
        change = torch.where(
            estimate > 0,
            (estimate / before).log().abs().nan_to_num(torch.inf, torch.inf),
            torch.zeros_like(estimate),
        )
        # One small change may be chance; it halves from step to step where a crowded edge is resolved.
        error = torch.maximum(change, earlier / 2) + squared.rounding / root
        error = torch.where(estimate > 0, error, torch.zeros_like(error)) if number > 1 else error + torch.inf
        better = error < errors[points]
        values[points] = torch.where(better, estimate, values[points])
        errors[points] = torch.where(better, error, errors[points])
        powers = squared
        if matrices.device.type == "cpu" and number > 1:
            enough = tolerance if number + 1 >= _MIN_SQUARINGS else min(_CERTAIN, tolerance)
            rest = ((error > enough) & (squared.rounding < 1)).nonzero()[:, 0]
            if not len(rest):
                break
            if len(rest) < len(points):
                powers, points = powers.at(rest), points[rest]
                estimate, change = estimate[rest], change[rest]
    return Estimate.of(Method.SQUARING, values, errors, tolerance=tolerance)


def _start(matrices: Tensor) -> _Powers:
    norms = torch.linalg.matrix_norm(matrices.double())
    unit = matrices / torch.where(norms > 0, norms, torch.ones_like(norms)).to(matrices.dtype)[:, None, None]
    return _Powers(unit, norms.log(), torch.full_like(norms, torch.finfo(matrices.dtype).eps))
