"""Static shapes of ONNX values."""

from __future__ import annotations

import onnx_ir as ir


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape of a value if all of its dimensions are known integers, else None."""
    if value is None or value.shape is None:
        return None
    dims = tuple(value.shape)
    known = tuple(int(dim) for dim in dims if isinstance(dim, int))
    return known if len(known) == len(dims) else None
