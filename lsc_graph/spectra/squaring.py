"""Spectral radii by repeated squaring, in ratio form.

(||M^(2^k)||_F / ||M^(2^(k-1))||_F)^(1 / 2^(k-1)) tends to the spectral radius. In the ratio a transient
growth of the powers cancels, which in Gelfand's ||M^m||^(1/m) only the root removes. Powers are renormalised
at every step and their logarithms kept, so that none leaves the floating-point range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lsc_graph.spectra.estimate import TOLERANCE, Estimate, Method

# The dominant eigenvalues may take turns at first, so that early estimates stand still by chance.
_MIN_SQUARINGS = 9
# A transient, such as that of a Jordan block, grows steadily for as many steps as the matrix has rows, and
# that of a cascade of leaky units for as many as it has rows over the leak: seen through at this many times
# as many.
_BEYOND_TRANSIENT = 200
_MORE_SQUARINGS = 5
_CERTAIN_SQUARINGS = 5
_CERTAIN = 1e-5


@torch.no_grad()
def squaring_radius(
    matrices: Tensor, *, tolerance: float = TOLERANCE, dtype: torch.dtype = torch.float32
) -> Estimate:
    """Spectral radii of matrices [P, n, n].

    On the CPU each point is read as soon as it is known well enough, whatever others are in the batch. On
    CUDA all squarings are done, and the host waits for the device once, at the end.

    Args:
        matrices: the batch.
        tolerance: relative error to stop at.
        dtype: of the products.
    """
    # The squares of elements may leave the range of floats.
    largest = _nonzero(matrices.abs().amax((1, 2)))
    unit = matrices / largest[:, None, None]
    norms = torch.linalg.matrix_norm(unit.double())
    unit = (unit / _nonzero(norms).to(unit.dtype)[:, None, None]).to(dtype)
    logs = [norms.log() + largest.double().log()]
    least = max(_MIN_SQUARINGS, math.ceil(math.log2(_BEYOND_TRANSIENT * matrices.shape[-1])))
    most = least + _MORE_SQUARINGS
    found, alive = _Found.start(matrices), torch.arange(len(matrices), device=matrices.device)
    for number in range(1, most + 1):
        unit = torch.bmm(unit, unit)
        norms = torch.linalg.matrix_norm(unit)
        unit /= _nonzero(norms)[:, None, None]
        logs.append(2 * logs[-1] + norms.double().log())
        is_last = number == most
        if not is_last and (number < _CERTAIN_SQUARINGS or matrices.device.type != "cpu"):
            continue
        values, errors, rounding, ties = _read(torch.stack(logs), dtype)
        enough = tolerance / 2 if number >= least else min(_CERTAIN, tolerance)
        is_enough = (errors <= enough) & (errors + ties <= tolerance) | (rounding > tolerance) | is_last
        is_left = found.take(alive, values, errors + ties, is_enough)
        if is_last or not bool(is_left.any()):
            break
        if int(is_left.sum()) <= len(alive) / 2:  # the others' products cost less than copies every time
            unit, alive, logs = unit[is_left], alive[is_left], [log[is_left] for log in logs]
    return Estimate.of(Method.SQUARING, found.values, found.errors, tolerance=tolerance)


@dataclass
class _Found:
    """Values and errors [P] of the points that are done, and which ones these are."""

    values: Tensor
    errors: Tensor
    is_done: Tensor

    @staticmethod
    def start(matrices: Tensor) -> _Found:
        """Nothing so far."""
        values = torch.zeros(len(matrices), dtype=torch.float64, device=matrices.device)
        return _Found(values, torch.zeros_like(values), torch.zeros_like(values, dtype=torch.bool))

    def take(self, points: Tensor, values: Tensor, errors: Tensor, where: Tensor) -> Tensor:
        """What is known of some of the points now, once and for all; which of them are left."""
        is_new = where & ~self.is_done[points]
        self.values[points] = torch.where(is_new, values, self.values[points])
        self.errors[points] = torch.where(is_new, errors, self.errors[points])
        self.is_done[points] |= is_new
        return ~self.is_done[points]


def _read(logs: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Estimates [P], their relative errors, what of these is rounding, and what close ties add to them.

    All from log ||M^(2^k)||_F [K+1, P].

    The estimate's error is about its last change, which halves with every step while a crowded edge is
    resolved; one change may be small by chance, and all of the last ones where eigenvalues inside the edge
    weigh more than those on it. While anything still changes, ||M^(2^k)|| / radius^(2^k) may go on as far as
    it has come, of which the root takes its part. Rounding at step j moves the eigenvalue of M^(2^j) by eps
    times its condition number times ||M^(2^j)||, and the root takes 1 / 2^j of that. The condition number is
    what ||M^(2^k)|| / radius^(2^k) tends to.

    Eigenvalues so close to the edge that no power so far tells them from it pull the estimate inwards by
    their mean distance, which the estimate's changes do not show: these are the distances' variance times
    3/8 of the power. Of m equal ones the mean squared is at most (m - 1) times that variance; and 1 / m is
    ||P^2||^2 for the last power P of unit norm, if it is normal. If it is not, those that have the largest
    eigenvectors weigh as much as ever so many.
    """
    steps = torch.pow(2.0, torch.arange(len(logs), dtype=torch.float64, device=logs.device))[:, None]
    is_zero = logs[0] == -torch.inf
    roots = (logs[1:] - logs[:-1]) / steps[:-1]
    changes = roots.diff(dim=0).abs()
    last = torch.stack([changes[-1], changes[-2] / 2, changes[-3] / 4]).amax(0)
    num_equal = (4 * logs[-2] - 2 * logs[-1]).exp().clamp(1)
    ties = ((num_equal - 1) * last * 8 / 3 / steps[-1]).sqrt()
    growth = logs - steps * roots[-1]
    last = torch.where(last > _CERTAIN, torch.maximum(last, growth[-1].abs() / steps[-2]), last)
    rounding = torch.finfo(dtype).eps * growth.amax(0).exp() * (growth.exp() / steps).sum(0)
    rounding = rounding.nan_to_num(math.inf, math.inf)
    # A power that vanishes may have left the floating-point range element by element.
    values = torch.where(logs[-1] == -torch.inf, 0.0, roots[-1].exp())
    errors = torch.where(is_zero, 0.0, last + rounding)
    ties = torch.where(is_zero, 0.0, ties)
    return values, errors, torch.where(is_zero, 0.0, rounding), ties


def _nonzero(norms: Tensor) -> Tensor:
    return torch.where(norms > 0, norms, torch.ones_like(norms))
