"""Tables that only look like weights: bases of Fourier transforms, and waves of positions."""

from __future__ import annotations

import numpy as np

_MIN_LENGTH = 8
# Of large weights so many rows or columns suffice to see that they are none.
_FEW = 4
_WAVING = 1.9


def is_basis(values: np.ndarray) -> bool:
    """Whether a table is one that nothing has learned: windowed Fourier kernels, or sines over positions.

    Equal elements say nothing: weights start so, too.
    """
    shape = [size for size in values.shape if size != 1]
    if len(shape) != 2 or bool((values == values.flat[0]).all()):
        return False
    table = values.reshape(shape).astype(np.float64)
    return _is_fourier(table) or _are_waves(table) or _are_waves(table.T)


def _is_fourier(rows: np.ndarray) -> bool:
    """Whether every kernel is symmetric or antisymmetric, as windowed Fourier bases are: not by learning.

    Periodic windows put the centre of symmetry one element later than their middle.
    """
    if rows.shape[1] < _MIN_LENGTH:
        return False
    tolerance = 1e-4 * np.abs(rows).max()
    parts = (rows, rows[:, 1:])
    return any(_is_mirrored(part[:_FEW], tolerance) and _is_mirrored(part, tolerance) for part in parts)


def _is_mirrored(rows: np.ndarray, tolerance: float) -> bool:
    mirrored = rows[:, ::-1]
    error = np.minimum(np.abs(rows - mirrored).max(1), np.abs(rows + mirrored).max(1))
    return bool((error <= tolerance).all())


def _are_waves(columns: np.ndarray) -> bool:
    """Whether every column is a sine of the position: c[k+1] + c[k-1] = 2 cos(w) c[k].

    Straight lines follow the same rule with w = 0, and may be transitions: some column must really wave.
    """
    if len(columns) < _MIN_LENGTH or _wave_factors(columns[:, :_FEW]) is None:
        return False
    factors = _wave_factors(columns)
    return factors is not None and bool((np.abs(factors[columns.any(0)]) < _WAVING).any())


def _wave_factors(columns: np.ndarray) -> np.ndarray | None:
    """2 cos(w) of every column; None if any follows no such rule."""
    middle, around = columns[1:-1], columns[2:] + columns[:-2]
    energy = np.maximum((middle * middle).sum(0), np.finfo(np.float64).tiny)
    factors: np.ndarray = (middle * around).sum(0) / energy
    error = np.abs(around - factors * middle).max(0)
    return factors if bool((error <= 1e-3 * np.abs(columns).max(0)).all()) else None
