"""How fast the powers of one matrix grow once any transient is over: what confirms a spectral radius.

A vector is multiplied more than twice as often as the matrix has rows, since Jordan blocks within the unit
circle grow like circulant matrices for up to twice as many steps. Cascades of leaky units, (1 - d) h + d
times the unit before, do so for as many steps as they have rows over d: these are seen through in a long
orbit, for any d that matters to a radius. A few squarings first take less time than all these products.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lsc_graph.spectra.arnoldi import ILL_CONDITIONED
from lsc_graph.spectra.handed import handed

_SQUARINGS = 4
_ALIGNED = 16
# Times the size: until when powers may grow by what is no eigenvalue, and how long they are looked at.
_TRANSIENT, _END = 2.0, 2.5
# The same of a long orbit: leaks of half a percent are over by then.
_LONG_TRANSIENT, _LONG_END = 200.0, 250.0
# Products that take about as long as another squaring.
_MAX_PRODUCTS = 256
# What rounding may make of a growth that later decays, relative to what is left of it.
_MAX_ROUNDING = 1e-3


class Growth(NamedTuple):
    """By how much a power of a matrix exceeds the one before, and about the condition number of that.

    High powers of a matrix are as large, over the radius to that power, as its eigenvalue's condition number,
    of which a random vector of n elements shows a part of 1 / sqrt(n). Where powers still grow like those of
    a Jordan block, by k to the power n - 1, the rate is above the radius by about n / k of it: `excess`, or 0
    where that is not so.
    """

    rate: float
    condition: float
    excess: float = 0.0


@torch.no_grad()
def orbit_growth(matrix: Tensor, *, is_long: bool = False, seed: int = 0) -> Growth:
    """How the powers of a matrix [n, n] grow once transients are over.

    On CUDA the host waits for the device once.

    Args:
        matrix: which.
        is_long: whether to wait for slow transients, too.
        seed: of the vector.

    Returns:
        nan where rounding decides, or a power leaves the range of floats.
    """
    size = matrix.shape[-1]
    padding = -size % _ALIGNED  # products of rows that start anywhere take half as long again
    transient, end = (_LONG_TRANSIENT, _LONG_END) if is_long else (_TRANSIENT, _END)
    squarings = max(_SQUARINGS, math.ceil(math.log2(end * size / _MAX_PRODUCTS))) if is_long else _SQUARINGS
    power, log = _scaled(matrix, padding)
    other = torch.empty_like(power)
    for _ in range(squarings):
        torch.mm(power, power, out=other)
        power, other = other, power
        norm = torch.linalg.matrix_norm(power)
        power /= norm
        log = 2 * log + norm.double().log()
    step = 2**squarings
    count = math.ceil(end * size / step)
    vector = torch.randn(
        1, size + padding, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    vector = handed(vector / vector.norm(), power.device, power.dtype)
    power, lengths = other.copy_(power.T), []
    for _ in range(count):
        vector = vector @ power
        lengths.append(vector.norm())
        vector = vector / lengths[-1]
    found = torch.stack([*(own.double() for own in lengths), log]).cpu()
    return _rate(found, size, step, math.ceil(transient * size / step))


def _scaled(matrix: Tensor, padding: int) -> tuple[Tensor, Tensor]:
    """The matrix with a norm of 1, in single precision and so much larger, and the logarithm of its norm."""
    largest = torch.linalg.vector_norm(matrix, torch.inf)
    largest = torch.where(largest > 0, largest, torch.ones_like(largest))
    unit = (matrix / largest).float()
    norm = torch.linalg.matrix_norm(unit).clamp_min(torch.finfo(unit.dtype).tiny)
    unit /= norm
    unit = torch.nn.functional.pad(unit, (0, padding, 0, padding)) if padding else unit
    return unit, largest.double().log() + norm.double().log()


def orbit_fall(matrix: Tensor, radius: Tensor) -> Tensor:
    """By which factor [P] the orbit of a Krylov space's first vector ends below its greatest length.

    Lengths are taken over powers of the radius: what is dominant neither grows nor falls. What falls was a
    transient.

    Args:
        matrix: the Hessenberg-like matrices [P, m, m].
        radius: the moduli [P] of the dominant Ritz values.
    """
    vector = torch.zeros_like(matrix[:, :, :1])
    vector[:, 0] = 1
    log = torch.zeros_like(radius)
    logs = [log]
    for _ in range(matrix.shape[1] - 1):
        vector = matrix @ vector / radius[:, None, None]
        length = vector.norm(dim=1)
        vector, log = vector / length[:, None], log + length[:, 0].log()
        logs.append(log)
    return (torch.stack(logs).amax(0) - log).exp().nan_to_num(math.inf)


def _rate(found: Tensor, size: int, step: int, start: int) -> Growth:
    """From what each product does to the length, `start` on, and the logarithm of the matrix's own scale."""
    logs = found[:-1].log() + found[-1]
    rate = float(logs[start:].mean())
    grown = (logs - rate).cumsum(0)
    rounding = torch.finfo(torch.float32).eps * math.exp(min(float(grown.max() - grown[-1]), 700.0))
    is_known = math.isfinite(rate) and rounding * size**0.5 <= _MAX_ROUNDING
    if not is_known:
        return Growth(math.nan, math.nan)
    condition = math.exp(min(float(grown[-1]), 700.0)) * size**0.5
    middle = step * (start + 1 + len(logs)) / 2
    return Growth(math.exp(rate / step), condition, size / middle if condition > ILL_CONDITIONED else 0.0)
