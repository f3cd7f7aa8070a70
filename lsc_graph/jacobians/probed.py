"""Gains of matrices that are known by what they do to cotangents, by as many of these as it takes.

Few random cotangents tell a gain well where many singular values share it. Where few rows or few singular
values make it up, as those of a mean over units, they would be off by tenths of it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Cotangents that are pulled back at most; with that many rows or fewer, unit vectors give the exact gain. So
# they do with more rows where there are so few points that their noise would not average out.
_MOST, _MOST_AT_FEW, _FEW_POINTS = 256, 1024, 32
# Relative error of a gain up to which the first probes are enough.
_ENOUGH = 0.03


def probed_gain(
    squares: Callable[[Tensor], Tensor],
    num_points: int,
    shape: tuple[int, int],
    num_probes: int,
    generator: torch.Generator,
) -> Tensor:
    """||M||_F / (n_out n_in)^(1/4) at P points [P], float64 on the CPU.

    By Hutchinson's estimator, E ||M^T v||^2 = ||M||_F^2 for standard normal v; where the first probes scatter
    too much, by more of them, or by all unit vectors.

    Args:
        squares: ||M^T v||^2 [P, K] for cotangents v [P, K, n_out], float64.
        num_points: P.
        shape: (n_out, n_in).
        num_probes: how many to begin with.
        generator: of the probes.
    """
    rows = shape[0]
    if rows <= num_probes:
        return _scaled(squares(_units(num_points, 0, rows, rows)).cpu().sum(1), shape)

    def drawn() -> Tensor:
        probes = torch.randn(num_points, num_probes, rows, generator=generator, dtype=torch.float64)
        return squares(probes)

    found = drawn().cpu()
    if _is_enough(found):
        return _scaled(found.mean(1), shape)
    if rows <= (_MOST_AT_FEW if num_points <= _FEW_POINTS else _MOST):
        starts = range(0, rows, num_probes)
        exact = [squares(_units(num_points, start, min(rows, start + num_probes), rows)) for start in starts]
        return _scaled(torch.cat(exact, 1).cpu().sum(1), shape)
    more = torch.cat([drawn() for _ in range(1, _MOST // num_probes)], 1).cpu()
    return _scaled(torch.cat([found, more], 1).mean(1), shape)


def _units(num_points: int, start: int, end: int, rows: int) -> Tensor:
    """Unit vectors [P, end - start, rows], the same at every point."""
    units = torch.zeros(end - start, rows, dtype=torch.float64)
    units[torch.arange(end - start), torch.arange(start, end)] = 1
    return units.expand(num_points, -1, -1)


def _is_enough(squares: Tensor) -> bool:
    """Whether probes [P, K] scatter little; a gain has half of the relative error of its square."""
    errors = squares.std(1) / squares.shape[1] ** 0.5
    return bool((errors <= 2 * _ENOUGH * squares.mean(1)).all())


def _scaled(squared_norms: Tensor, shape: tuple[int, int]) -> Tensor:
    rows, columns = shape
    gains: Tensor = (squared_norms.double() / (rows * columns) ** 0.5).sqrt()
    return gains
