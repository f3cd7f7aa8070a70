"""Tensor data in files beside the model: read only after its place and size have been checked."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

from onnx import TensorProto

from lsc_graph.errors import ExternalDataError
from lsc_graph.model_file.tensor_data import is_external, num_bytes


def load_external_data(tensors: Iterable[TensorProto], folder: Path | None) -> None:
    """Read the data of external tensors into memory, in place.

    Args:
        tensors: the model's tensors; those with their own data are left alone.
        folder: the model's folder; None if the model did not come from a file.

    Raises:
        ExternalDataError: a data file is missing, too short, or not inside the folder.
    """
    for tensor in tensors:
        if is_external(tensor):
            tensor.raw_data = _read(tensor, folder)
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]


def _read(tensor: TensorProto, folder: Path | None) -> bytes:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    expected = num_bytes(tensor)
    offset = _number(tensor, entries.get("offset", "0"), "offset")
    length = _number(tensor, entries.get("length", str(expected)), "length")
    if length != expected:
        raise ExternalDataError(
            "External tensor data has the wrong length",
            where=f"tensor {tensor.name}",
            got=f"{length} bytes",
            expected=f"{expected} bytes, by its shape and type",
        )
    path = _inside(tensor, location, folder)
    return _read_range(tensor, path, offset, length)


def _number(tensor: TensorProto, text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ExternalDataError(
            f"External tensor data has a bad {what}",
            where=f"tensor {tensor.name}",
            got=text[:80],
            expected="a number of bytes",
        )
    return int(text)


def _inside(tensor: TensorProto, location: str, folder: Path | None) -> Path:
    """The real path of a data file, which must lie in the model's folder."""
    if folder is None:
        raise ExternalDataError(
            "External data needs a folder to lie in, and a model given as bytes has none",
            where=f"tensor {tensor.name}",
            got=location,
            do="give the path of the model instead of its bytes",
        )
    styles = (PurePosixPath(location), PureWindowsPath(location))
    escapes = any(path.is_absolute() or path.drive or path.root or ".." in path.parts for path in styles)
    if escapes or not location or "\0" in location:
        raise _outside(tensor, location)
    try:
        real = (folder / location).resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise ExternalDataError(
            "External data is missing",
            where=str(folder / location),
            got=f"none that can be opened, for tensor {tensor.name}",
            expected="the data file in the model's folder",
            do="copy it there together with the model",
        ) from error
    if not real.is_relative_to(folder.resolve()):
        raise _outside(tensor, f"{location}, which leads to {real}")
    return real


def _outside(tensor: TensorProto, got: str) -> ExternalDataError:
    return ExternalDataError(
        "External data lies outside the model's folder",
        where=f"tensor {tensor.name}",
        got=got or "an empty path",
        expected="a path below the model's folder, symbolic links included",
        do="copy the data file into the model's folder",
    )


def _read_range(tensor: TensorProto, path: Path, offset: int, length: int) -> bytes:
    # Never wait on a pipe, and never follow a link put there since the check.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        with open(path, "rb", opener=lambda name, mode: os.open(name, mode | flags)) as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode) and offset + length <= status.st_size:
                file.seek(offset)
                return file.read(length)
    except OSError as error:
        raise ExternalDataError(
            "A file with tensor data cannot be read", where=str(path), got=error.strerror
        ) from error
    raise ExternalDataError(
        "External data ends before the tensor does",
        where=str(path),
        got=f"{status.st_size:,} bytes" if stat.S_ISREG(status.st_mode) else "not a regular file",
        expected=f"at least {offset + length:,} bytes, for tensor {tensor.name}",
        do="copy or download the file again",
    )
