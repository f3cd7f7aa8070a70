"""The bytes behind a model's tensors: their sizes, and those that lie in files beside the model."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
import onnx_ir as ir

from lsc_graph.errors import ExternalDataError, LimitExceededError, LoadError, TruncatedModelError

MAX_TENSOR_BYTES = 8 * 2**30
_STRING_BYTES = 1
_TYPED_FIELDS = ("float_data", "int32_data", "int64_data", "uint64_data", "double_data", "string_data")
_PARTS = {onnx.TensorProto.COMPLEX64: 2, onnx.TensorProto.COMPLEX128: 2}


def graphs_in(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def tensors_in(nodes: list[onnx.NodeProto], graphs: list[onnx.GraphProto]) -> Iterator[onnx.TensorProto]:
    """Every tensor of these nodes and graphs themselves, sparse ones as their two parts."""
    sparse: list[onnx.SparseTensorProto] = []
    for graph in graphs:
        yield from graph.initializer
        sparse += graph.sparse_initializer
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("sparse_tensor"):
                sparse.append(attribute.sparse_tensor)
            yield from attribute.tensors
            sparse += attribute.sparse_tensors
    for tensor in sparse:
        yield from (tensor.values, tensor.indices)


def num_elements(tensor: onnx.TensorProto) -> int:
    """Elements by the declared dims."""
    if any(dim < 0 for dim in tensor.dims):
        raise LoadError(
            "A tensor has a negative dimension", where=tensor.name or None, got=str(list(tensor.dims))
        )
    return math.prod(tensor.dims)


def num_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes by the declared dims and type; of strings, one for each."""
    count = num_elements(tensor)
    if tensor.data_type == onnx.TensorProto.STRING:
        return count * _STRING_BYTES
    if tensor.data_type == onnx.TensorProto.UNDEFINED and not count:
        return 0
    return (count * _bits(tensor) + 7) // 8


def _bits(tensor: onnx.TensorProto) -> int:
    try:
        return int(ir.DataType(tensor.data_type).bitwidth)
    except (ValueError, TypeError) as error:
        raise LoadError(
            "A tensor has no element type that ONNX knows",
            where=tensor.name or None,
            got=f"data_type {tensor.data_type}",
        ) from error


def check_tensors(tensors: list[onnx.TensorProto]) -> None:
    """Check, before anything is allocated, that the data is as long as the dims say.

    Raises:
        LimitExceededError: all tensors together are larger than `MAX_TENSOR_BYTES`.
        TruncatedModelError: a tensor holds less than its dims declare.
        LoadError: it holds more, or has no valid dims or type.
    """
    total = sum(num_bytes(tensor) for tensor in tensors)
    if total > MAX_TENSOR_BYTES:
        raise LimitExceededError(
            "The model's tensors are too large",
            got=f"{total:,} bytes",
            expected=f"at most {MAX_TENSOR_BYTES:,} bytes",
        )
    for tensor in tensors:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            _check_length(tensor)


def _check_length(tensor: onnx.TensorProto) -> None:
    if tensor.HasField("raw_data"):
        got, expected, unit = len(tensor.raw_data), num_bytes(tensor), "bytes"
    else:
        got = max(len(getattr(tensor, name)) for name in _TYPED_FIELDS)
        expected, unit = num_elements(tensor) * _PARTS.get(tensor.data_type, 1), "values"
        if (
            tensor.data_type not in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED)
            and _bits(tensor) < 8
        ):
            expected = num_bytes(tensor)
    if got == expected:
        return
    kind = TruncatedModelError if got < expected else LoadError
    raise kind(
        f"A tensor holds {'less' if got < expected else 'more'} data than its dims declare",
        where=tensor.name or None,
        got=f"{got:,} {unit}",
        expected=f"{expected:,} {unit} for dims {list(tensor.dims)}",
        do="export or download the model again",
    )


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether the data lies in another file."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def read_external(tensors: list[onnx.TensorProto], folder: Path | None) -> None:
    """Read external data into the tensors; all places are checked before the first byte is read.

    Args:
        tensors: external tensors; they are changed.
        folder: the model's folder; None where the model did not come from a file.

    Raises:
        ExternalDataError: a file is missing, outside the folder, or too short.
    """
    places = [_place(tensor, folder) for tensor in tensors]
    for tensor, (file, offset, length) in zip(tensors, places, strict=True):
        try:
            with file.open("rb") as stream:
                stream.seek(offset)
                data = stream.read(length)
        except OSError as error:
            raise _refused(tensor, f"{file}: {error.strerror or error}", "a readable file") from error
        if len(data) != length:
            raise _refused(tensor, f"{len(data):,} bytes read from {file}", f"{length:,} bytes")
        tensor.raw_data = data
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")


def _place(tensor: onnx.TensorProto, folder: Path | None) -> tuple[Path, int, int]:
    """File, offset and length of a tensor's data, checked without reading it."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if folder is None:
        raise _refused(
            tensor, "a model without a folder", "tensor data inside the model, or the path of its file"
        )
    file = _file_inside(tensor, folder, entries.get("location", ""))
    size, needed = file.stat().st_size, num_bytes(tensor)
    offset = _number(tensor, entries.get("offset", "0"))
    length = _number(tensor, entries.get("length", str(needed)))
    if length != needed:
        raise _refused(tensor, f"a length of {length:,} bytes", f"{needed:,} bytes for {list(tensor.dims)}")
    if offset + length > size:
        raise _refused(
            tensor, f"{file.name} of {size:,} bytes", f"at least {offset + length:,} (offset + length)"
        )
    return file, offset, length


def _file_inside(tensor: onnx.TensorProto, folder: Path, location: str) -> Path:
    """The file of external data, which must lie inside the model's folder, links followed."""
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    inside = "a file inside the model's folder"
    if not location or "\0" in location:
        raise _refused(tensor, f"location {location!r}", inside)
    if posix.is_absolute() or windows.anchor or ".." in (*posix.parts, *windows.parts):
        raise _refused(tensor, f"location {location!r}", inside)
    root = Path(os.path.realpath(folder))
    file = Path(os.path.realpath(root / location))
    if not file.is_relative_to(root):
        raise _refused(tensor, f"location {location!r}, a link that leads outside", inside)
    if not file.is_file():
        raise _refused(tensor, f"no file {location!r} in {folder}", inside, "put it beside the model")
    return file


def _number(tensor: onnx.TensorProto, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise _refused(tensor, f"{text!r}", "a non-negative number as offset and length")
    return int(text)


def _refused(
    tensor: onnx.TensorProto, got: str, expected: str, do: str = "keep a model's data files beside it"
) -> ExternalDataError:
    return ExternalDataError(
        "External tensor data cannot be used", where=tensor.name or None, got=got, expected=expected, do=do
    )
