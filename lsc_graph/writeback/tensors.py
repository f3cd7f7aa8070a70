"""New values in a TensorProto: its name, type, shape and the field that holds its data stay what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from lsc_graph.errors import WriteBackError

Array = np.ndarray[Any, np.dtype[Any]]
# Which typed field holds the numbers of each type where `raw_data` is not used.
_TYPED: dict[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.FLOAT16: "int32_data",
    TensorProto.BFLOAT16: "int32_data",
}


def is_writable(tensor: TensorProto) -> bool:
    """Whether the tensor is of a floating-point type that can be written back."""
    return tensor.data_type in _TYPED


def values_of(tensor: TensorProto) -> Array:
    """The tensor's numbers (float16 and bfloat16 in the numpy type that stands for them)."""
    return np.asarray(numpy_helper.to_array(tensor))


def encoded(tensor: TensorProto, values: Array) -> bytes:
    """Values as the little-endian bytes of the tensor's type, each rounded to the nearest.

    Raises:
        WriteBackError: the shape differs, the type cannot be written, or a value is not finite in it.
    """
    if not is_writable(tensor) or tuple(tensor.dims) != values.shape:
        raise WriteBackError(
            "New values do not fit their tensor",
            where=tensor.name,
            got=f"shape {values.shape}",
            expected=f"shape {tuple(tensor.dims)} of a floating-point type",
        )
    with np.errstate(over="ignore"):
        rounded = values.astype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    if not np.isfinite(rounded.astype(np.float64)).all():
        raise WriteBackError(
            "A new value is not a finite number in the tensor's type",
            where=tensor.name,
            got=f"{np.abs(values).max():.3g} as the largest absolute value",
            expected=f"finite values of type {TensorProto.DataType.Name(tensor.data_type)}",
        )
    return bytes(numpy_helper.from_array(rounded).raw_data)


def overwrite(tensor: TensorProto, values: Array) -> None:
    """Put values into a tensor that holds its own data, in the field that holds it now."""
    data = encoded(tensor, values)
    if tensor.HasField("raw_data"):
        tensor.raw_data = data
        return
    field = _TYPED[tensor.data_type]
    width = np.dtype("<u2") if field == "int32_data" else helper.tensor_dtype_to_np_dtype(tensor.data_type)
    del getattr(tensor, field)[:]
    getattr(tensor, field).extend(np.frombuffer(data, width).tolist())
