"""Spectral radii by Krylov spaces of powers of each matrix.

Where eigenvalues crowd at the edge, as those of orthogonal matrices do, none of them is resolved by few
products. The edge of M^32 is less crowded, a relative error there is a thirty-second of it in the radius, and
squaring takes less time than the bases that M itself would need. Points at which that is not enough are
squared further.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lsc_graph.spectra.arnoldi import ILL_CONDITIONED, Krylov, ritz_values
from lsc_graph.spectra.estimate import TOLERANCE, Estimate, Method
from lsc_graph.spectra.handed import handed
from lsc_graph.spectra.operator import dense_operator
from lsc_graph.spectra.orbit import orbit_fall
from lsc_graph.spectra.pending import Pending

# Squarings before the first Krylov spaces at least, between these and further ones, and at most.
_FIRST, _MORE, _MOST = 5, 2, 13
# A transient, such as that of a Jordan block, may take as many steps as the matrix has rows; the Krylov
# spaces see this many times as many.
_BEYOND_TRANSIENT = 2.5
# The same where slow transients are to be seen through: leaks of half a percent are over by then.
_LONG_BEYOND = 200.0
_BASIS = 24


@dataclass
class _Powers:
    """Powers [P, n, n] of norm 1, and the logarithms [P] of the norms of M^(2^j) for all j so far.

    `is_zero` [P] tells where the matrices are zero; these count as of norm 1.
    """

    unit: Tensor
    logs: list[Tensor]
    is_zero: Tensor

    @staticmethod
    def start(matrices: Tensor) -> _Powers:
        """The matrices themselves."""
        size = torch.linalg.vector_norm(matrices.flatten(1), torch.inf, dim=1)
        largest = _nonzero(size)
        unit = (matrices / largest[:, None, None]).float()
        norms = _nonzero(torch.linalg.matrix_norm(unit))
        unit /= norms[:, None, None]
        return _Powers(unit, [largest.double().log() + norms.double().log()], size == 0)

    def square(self) -> None:
        """M^(2^j) to M^(2^(j+1))."""
        self.unit = torch.bmm(self.unit, self.unit)
        norms = _nonzero(torch.linalg.matrix_norm(self.unit))
        self.unit /= norms[:, None, None]
        self.logs.append(2 * self.logs[-1] + norms.double().log())

    def at(self, numbers: Tensor) -> _Powers:
        """Those of some of the points."""
        here = handed(numbers, self.unit.device)
        return _Powers(self.unit[here], [log[here] for log in self.logs], self.is_zero[here])


@torch.no_grad()
def power_radius(
    matrices: Tensor, *, tolerance: float = TOLERANCE, is_long: bool = False, seed: int = 0
) -> Estimate:
    """Spectral radii of matrices [P, n, n].

    Off the CPU only the last power is looked at, and the host waits for the device once.

    Args:
        matrices: the batch.
        tolerance: relative error to stop at.
        is_long: whether to wait for transients that take many times as many steps as the matrix has rows.
        seed: of the starting vectors.
    """
    if matrices.device.type != "cpu":
        return pending_powers(matrices, tolerance=tolerance, is_long=is_long, seed=seed).estimate()
    powers = _Powers.start(matrices)
    best = Estimate.none(Method.POWERS, len(matrices))
    alive = torch.arange(len(matrices))
    first = _first(matrices.shape[-1], is_long)
    for number in range(1, max(_MOST, first) + 1):
        powers.square()
        if number < first or (number - first) % _MORE:
            continue
        # Another vector every time: one with next to nothing along the eigenvector looks like a transient.
        found = _looked_at(powers, tolerance, seed + number - first).estimate()
        best = best.where_better(alive, found)
        left = (~best.converged[alive] & found.values.isfinite()).nonzero()[:, 0]
        if not len(left):
            break
        powers, alive = powers.at(left), alive[left]
    return best


@torch.no_grad()
def pending_powers(
    matrices: Tensor, *, tolerance: float = TOLERANCE, is_long: bool = False, seed: int = 0
) -> Pending:
    """The same from the last power alone, to be read by the host; arguments as of `power_radius`."""
    powers = _Powers.start(matrices)
    for _ in range(max(_MOST, _first(matrices.shape[-1], is_long))):
        powers.square()
    return _looked_at(powers, tolerance, seed)


def _first(size: int, is_long: bool) -> int:
    """The number of squarings after which transients are over."""
    beyond = _LONG_BEYOND if is_long else _BEYOND_TRANSIENT
    return max(_FIRST, math.ceil(math.log2(beyond * size / _BASIS)))


def _looked_at(powers: _Powers, tolerance: float, seed: int) -> Pending:
    """The Krylov spaces of the present powers, to be read by one transfer."""
    operator = dense_operator(powers.unit)
    krylov = Krylov.start(operator, min(_BASIS, operator.size), torch.Generator().manual_seed(seed))
    krylov.grow(operator, min(_BASIS, operator.size))
    shape, size, eps = krylov.matrix.shape, operator.size, torch.finfo(powers.unit.dtype).eps
    width = shape[1] * shape[2]

    def read(numbers: Tensor) -> Estimate:
        matrix, logs = numbers[:, :width].reshape(shape), numbers[:, width:-1].T
        return _read(matrix, logs, numbers[:, -1] > 0, size, eps, tolerance)

    logs = torch.stack(powers.logs, 1)
    parts = [krylov.matrix.double().flatten(1), logs, powers.is_zero.double()[:, None]]
    return Pending(torch.cat(parts, 1), read)


def _read(matrix: Tensor, logs: Tensor, is_zero: Tensor, size: int, eps: float, tolerance: float) -> Estimate:
    """From matrices [P, m+1, m] of Krylov spaces, logarithms [J+1, P] of norms and what is zero [P].

    A Ritz value is off by at most its residual times its condition number; another one that its residual
    would let overtake it may belong to an eigenvalue that is not resolved yet. An orbit that has come down
    by a large factor came down to what rounding made of it.
    """
    finite = matrix.isfinite().flatten(1).all(1)
    moduli, residuals, conditions = ritz_values(torch.where(finite[:, None, None], matrix, 0.0))
    top, index = moduli.max(1)
    own = residuals.gather(1, index[:, None])[:, 0]
    condition = conditions.gather(1, index[:, None])[:, 0].nan_to_num(torch.inf)
    factor = 2.0 ** (len(logs) - 1)
    log_radius = (top.log() + logs[-1]) / factor
    overtaking = ((moduli + residuals).amax(1) / top).log()
    off = torch.maximum(torch.log1p(condition * own / top), overtaking) / factor
    errors = off + condition * _rounding(logs, log_radius, eps)
    is_partial = matrix.shape[2] < size
    # Of a random vector about 1 / sqrt(n) lies along an eigenvector, to which the orbit falls in any case.
    fall = orbit_fall(torch.where(finite[:, None, None], matrix, 0.0)[:, :-1], top) / size**0.5
    errors = torch.where((torch.maximum(condition, fall) > ILL_CONDITIONED) & is_partial, torch.inf, errors)
    errors = torch.where(is_zero, 0.0, errors)
    values = torch.where(is_zero, 0.0, torch.where(finite, log_radius.exp(), torch.nan))
    return Estimate.of(Method.POWERS, values, errors, tolerance=tolerance, conditions=condition)


def _rounding(logs: Tensor, log_radius: Tensor, eps: float) -> Tensor:
    """What rounding does to the radius, over the eigenvalue's condition number [P].

    At step j it moves the eigenvalue of M^(2^j) by eps times its condition number times
    ||M^(2^(j-1))||^2, and the root takes 1 / 2^j of that.
    """
    powers = torch.pow(2.0, torch.arange(1, len(logs), dtype=torch.float64))[:, None]
    return eps * ((2 * logs[:-1] - powers * log_radius).exp() / powers).sum(0)


def _nonzero(norms: Tensor) -> Tensor:
    return torch.where(norms > 0, norms, torch.ones_like(norms))
