"""Tables that only look like weights: bases of Fourier transforms."""

from __future__ import annotations

import numpy as np


def is_basis(values: np.ndarray) -> bool:
    """Whether every kernel is symmetric or antisymmetric, as windowed Fourier bases are: not by learning.

    Periodic windows put the centre of symmetry one element later than their middle.
    """
    shape = [size for size in values.shape if size != 1]
    if len(shape) != 2 or shape[1] < 8:
        return False
    rows = values.reshape(shape).astype(np.float64)
    scale = np.abs(rows).max()
    return any(_is_mirrored(part, 1e-4 * scale) for part in (rows, rows[:, 1:]))


def _is_mirrored(rows: np.ndarray, tolerance: float) -> bool:
    mirrored = rows[:, ::-1]
    error = np.minimum(np.abs(rows - mirrored).max(1), np.abs(rows + mirrored).max(1))
    return bool((error <= tolerance).all())
