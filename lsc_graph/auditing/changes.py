"""Which elements of a value another run of a model has changed, by more than rounding."""

from __future__ import annotations

import numpy as np

from lsc_graph.running.reference import Array

_ROUNDING = 1e-6
_OF_CHANGE = 1e-5
_SMALL = 0.1
"""Where the smallest share of elements is told from: masks add numbers of -1e9 to others."""


def moved(first: Array, second: Array) -> Array:
    """Which elements are others; of values that changed their shape, all."""
    if first.shape != second.shape:
        return np.ones(first.shape, bool)
    if not np.issubdtype(first.dtype, np.floating):
        return np.asarray(first != second)
    size = np.abs(first[np.isfinite(first) & (first != 0)])
    scale = float(np.quantile(size, _SMALL)) if size.size else 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        change = np.abs(np.subtract(first, second, dtype=np.float64))
        finite = change[np.isfinite(change)]
        least = _ROUNDING * scale + _OF_CHANGE * float(finite.max(initial=0.0))
        is_alike = np.isclose(first, second, rtol=_ROUNDING, atol=least, equal_nan=True)
    return np.asarray(~is_alike)
