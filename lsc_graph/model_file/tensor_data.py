"""Whether a tensor holds as much data as its shape and type say."""

from __future__ import annotations

import math

import onnx_ir as ir
from onnx import TensorProto

from lsc_graph.errors import LoadError, TruncatedModelError

_TYPED_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_COMPLEX = (TensorProto.COMPLEX64, TensorProto.COMPLEX128)


def is_external(tensor: TensorProto) -> bool:
    """Whether the tensor's data lies in another file."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def is_float(tensor: TensorProto) -> bool:
    """Whether the tensor is of a floating-point type."""
    return bool(ir.DataType(tensor.data_type).is_floating_point())


def num_elements(tensor: TensorProto) -> int:
    """The number of elements that the shape implies.

    Raises:
        LoadError: a negative dimension.
    """
    if any(dim < 0 for dim in tensor.dims):
        raise LoadError("A tensor has a negative dimension", where=tensor.name, got=str(list(tensor.dims)))
    return math.prod(tensor.dims)


def num_bytes(tensor: TensorProto) -> int:
    """How many bytes the tensor's shape and type imply; 0 for strings.

    Raises:
        LoadError: a negative dimension or an unknown type.
    """
    size = num_elements(tensor)
    if tensor.data_type == TensorProto.STRING:
        return 0
    return math.ceil(size * _bits(tensor) / 8)


def _bits(tensor: TensorProto) -> int:
    try:
        return int(ir.DataType(tensor.data_type).bitwidth)
    except (ValueError, TypeError) as error:
        raise LoadError("A tensor has no known type", where=tensor.name, got=str(tensor.data_type)) from error


def check_tensor(tensor: TensorProto, where: str | None) -> None:
    """Raise if a tensor in memory holds less or more data than its shape says.

    Raises:
        TruncatedModelError: less.
        LoadError: more, or no valid shape or type.
    """
    if tensor.HasField("raw_data"):
        got, expected, unit = len(tensor.raw_data), num_bytes(tensor), "bytes"
    else:
        got = sum(len(getattr(tensor, name)) for name in _TYPED_FIELDS)
        expected, unit = _num_entries(tensor), "values"
    if got == expected:
        return
    kind = TruncatedModelError if got < expected else LoadError
    raise kind(
        "A tensor does not hold as much data as its shape says",
        where=f"tensor {tensor.name}" if where is None else f"tensor {tensor.name} in {where}",
        got=f"{got} {unit}",
        expected=f"{expected} {unit}, for shape {list(tensor.dims)}",
        do="copy or download the file again, or export the model again",
    )


def _num_entries(tensor: TensorProto) -> int:
    """How many entries a typed field needs: two for a complex number, one for each byte of packed numbers."""
    size = num_elements(tensor)
    if tensor.data_type == TensorProto.STRING:
        return size
    if tensor.data_type in _COMPLEX:
        return 2 * size
    return math.ceil(size * min(_bits(tensor), 8) / 8)
