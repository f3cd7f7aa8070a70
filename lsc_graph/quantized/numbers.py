"""The numbers that quantised constants stand for."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from lsc_graph.running.reference import Array

INTEGERS: dict[int, tuple[int, int]] = {
    TensorProto.UINT8: (0, 255),
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT16: (0, 65535),
    TensorProto.INT16: (-32768, 32767),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT4: (-8, 7),
    TensorProto.INT32: (-(2**31), 2**31 - 1),
}
"""Types that values are quantised to, and what they can hold."""


def ends(elem_type: int, zero: float) -> tuple[float, float]:
    """Where values saturate, in steps from the zero point.

    The outermost integers stand for all that is rounded to them, half a step beyond; only at zero itself,
    where exporters leave a Relu to the saturation, the end is exact.
    """
    lowest, highest = (float(end) - zero for end in INTEGERS[elem_type])
    return lowest - 0.5 if lowest else 0.0, highest + 0.5 if highest else 0.0


def real_values(quantized: Array, scale: Array, zero: Array | None, axis: int) -> Array:
    """(q - zero) * scale, for the whole tensor or along one axis."""
    offset = 0.0 if zero is None else _along(zero.astype(np.float64), quantized.ndim, axis)
    factor = _along(scale.astype(np.float64), quantized.ndim, axis)
    return np.asarray(((quantized.astype(np.float64) - offset) * factor).astype(scale.dtype))


def integers(values: Array, scale: Array, zero: Array | None, axis: int, elem_type: int) -> Array:
    """What QuantizeLinear makes of constant values: rounded to even, saturated."""
    lowest, highest = INTEGERS[elem_type]
    offset = 0.0 if zero is None else _along(zero.astype(np.float64), values.ndim, axis)
    scaled = np.rint(values.astype(np.float64) / _along(scale.astype(np.float64), values.ndim, axis)) + offset
    return np.asarray(np.clip(scaled, lowest, highest).astype(helper.tensor_dtype_to_np_dtype(elem_type)))


def by_direction(quantized: Array, scale: Array, zero: Array | None) -> Array:
    """As `real_values` for the weights of recurrent operators, [dirs,K,N], with scales [dirs] or [dirs,N]."""
    dirs = quantized.shape[0]
    scales = scale.astype(np.float64).reshape(dirs, 1, -1)
    offsets = 0 if zero is None else zero.astype(np.float64).reshape(dirs, 1, -1)
    return np.asarray(((quantized.astype(np.float64) - offsets) * scales).astype(np.float32))


def _along(values: Array, rank: int, axis: int) -> Array:
    """One number, or a vector of them along `axis` of a tensor of `rank` dimensions."""
    shape = [1] * rank
    if values.size > 1:
        shape[axis] = -1
    return values.reshape(shape if values.size > 1 else ())
