"""Reading a model that nobody vouches for: what is wrong with it is said in one clear error."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

from lsc_graph.errors import (
    ExternalDataError,
    LimitExceededError,
    LoadError,
    NotOnnxError,
    TruncatedModelError,
    UnsupportedOpsetError,
)
from lsc_graph.results import ModelFacts

MIN_OPSET = 7
MAX_NODES = 200_000
MAX_NESTING = 32
MAX_TENSOR_BYTES = 8 * 2**30

Source = str | os.PathLike[str] | bytes | onnx.ModelProto


@dataclass(frozen=True)
class LoadedModel:
    """A checked model with all tensors in memory. `sha256` is that of the file, or of the given bytes."""

    proto: onnx.ModelProto
    path: Path | None
    sha256: str
    facts: ModelFacts


def load(source: Source) -> LoadedModel:
    """Read and check a model.

    Args:
        source: path of an .onnx file (external data must lie in its folder), its bytes, or a ModelProto.

    Raises:
        LoadError: it is missing (LoadError itself), not ONNX, truncated, of an unsupported operator set,
            invalid, or its external data is missing or outside its folder.
        LimitExceededError: it is larger than the caps of this module.
    """
    if isinstance(source, onnx.ModelProto):
        proto, data, path = onnx.ModelProto(), source.SerializeToString(), None
        proto.CopyFrom(source)
    elif isinstance(source, bytes):
        data, path = source, None
        proto = _parse(data, "the given bytes")
    else:
        path = Path(source)
        data = _read(path)
        proto = _parse(data, str(path))
    where = str(path) if path is not None else "the given model"
    _check_size(proto, where)
    _check_opsets(proto, where)
    _load_external_data(proto, path.parent if path is not None else None, where)
    _check_tensors(proto, where)
    _check(proto, where)
    digest = hashlib.sha256(data).hexdigest()
    return LoadedModel(proto, path, digest, _facts(proto, path, digest))


def _read(path: Path) -> bytes:
    if path.is_dir():
        found = sorted(entry.name for entry in path.glob("*.onnx"))
        raise LoadError(
            "A folder is not a model",
            where=str(path),
            expected="an .onnx file",
            do=f"give one of {', '.join(found[:5])}" if found else None,
        )
    try:
        return path.read_bytes()
    except OSError as error:
        siblings = [entry.name for entry in path.parent.glob("*")] if path.parent.is_dir() else []
        near = get_close_matches(path.name, siblings, n=1)
        raise LoadError(
            "The model cannot be read",
            where=str(path),
            got=error.strerror or str(error),
            expected="an .onnx file",
            do=f"did you mean {path.parent / near[0]}?" if near else None,
        ) from error


def _parse(data: bytes, where: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        if _starts_like_a_model(data):
            raise TruncatedModelError(
                "The model ends before it should, or is damaged",
                where=where,
                got=f"{len(data):,} bytes that cannot be parsed to the end",
                expected="a whole ONNX file",
                do="copy or download the file again",
            ) from error
        raise _not_onnx(data, where) from error
    if not proto.HasField("graph"):
        if proto.ir_version and _starts_like_a_model(data):
            raise TruncatedModelError(
                "The model has no graph: it ends before it should",
                where=where,
                got=f"{len(data):,} bytes",
                expected="a whole ONNX file",
                do="copy or download the file again",
            )
        raise _not_onnx(data, where)
    return proto


def _starts_like_a_model(data: bytes) -> bool:
    """Whether the bytes begin as ONNX writers begin: field 1 (ir_version), a small number."""
    return len(data) >= 2 and data[0] == 0x08 and 0 < data[1] < 0x40


def _not_onnx(data: bytes, where: str) -> NotOnnxError:
    kinds = {
        b"PK\x03\x04": "a zip archive (a PyTorch .pt file?)",
        b"\x89PNG": "a PNG image",
        b"\x80": "a pickle",
        b"\x89HDF": "an HDF5 file (Keras?)",
        b"ORTM": "an ORT-format model",
    }
    kind = next((words for start, words in kinds.items() if data.startswith(start)), None)
    if data[4:8] in (b"TFL3", b"ORTM"):
        kind = "a TensorFlow Lite model" if data[4:8] == b"TFL3" else "an ORT-format model"
    return NotOnnxError(
        "This is not an ONNX model",
        where=where,
        got=kind or (f"{len(data):,} bytes starting with {data[:8]!r}" if data else "an empty file"),
        expected="an ONNX ModelProto",
        do="export the model to ONNX first (for PyTorch: torch.onnx.export)",
    )


def _graphs(graph: GraphProto, depth: int = 0) -> Iterator[tuple[GraphProto, int]]:
    """The graph and those nested in it, with their nesting depth."""
    yield graph, depth
    for node in graph.node:
        for attribute in node.attribute:
            nested = [attribute.g] if attribute.type == AttributeProto.GRAPH else list(attribute.graphs)
            for inner in nested:
                yield from _graphs(inner, depth + 1)


def _nodes(proto: onnx.ModelProto) -> Iterator[NodeProto]:
    for graph, _ in _graphs(proto.graph):
        yield from graph.node
    for function in proto.functions:
        yield from function.node


def _tensors(proto: onnx.ModelProto) -> Iterator[TensorProto]:
    for graph, _ in _graphs(proto.graph):
        yield from graph.initializer
    for node in _nodes(proto):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t


def _check_size(proto: onnx.ModelProto, where: str) -> None:
    num_nodes = 0
    for graph, depth in _graphs(proto.graph):
        num_nodes += len(graph.node)
        if depth > MAX_NESTING:
            raise _too_large(
                where, f"graphs nested deeper than {MAX_NESTING}", f"at most {MAX_NESTING} levels"
            )
        if num_nodes > MAX_NODES:
            raise _too_large(where, f"more than {MAX_NODES:,} nodes", f"at most {MAX_NODES:,}")
    total = sum(_declared_bytes(tensor) for tensor in _tensors(proto))
    if total > MAX_TENSOR_BYTES:
        raise _too_large(where, f"tensors of {total:,} bytes", f"at most {MAX_TENSOR_BYTES:,} bytes")


def _too_large(where: str, got: str, expected: str) -> LimitExceededError:
    return LimitExceededError(
        "The model is too large to be analysed", where=where, got=got, expected=expected
    )


def _declared_bytes(tensor: TensorProto) -> int:
    """Bytes that the tensor's dimensions announce; one byte an element where the type has no fixed size."""
    count = 1
    for dim in tensor.dims:
        count *= max(int(dim), 0)
    try:
        return count * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except (KeyError, ValueError, TypeError):
        return count


def _check_opsets(proto: onnx.ModelProto, where: str) -> None:
    newest = onnx.defs.onnx_opset_version()
    versions = {opset.domain: opset.version for opset in proto.opset_import}
    default = versions.get("", versions.get("ai.onnx"))
    if default is None or not MIN_OPSET <= default <= newest:
        raise UnsupportedOpsetError(
            "The model's operator set is not supported",
            where=where,
            got="no version of the default operator set" if default is None else f"version {default}",
            expected=f"{MIN_OPSET} to {newest}",
            do="convert it with onnx.version_converter, or export it again",
        )


def _load_external_data(proto: onnx.ModelProto, folder: Path | None, where: str) -> None:
    """Read external tensors into memory, each from within the model's own folder."""
    for tensor in _tensors(proto):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        path = _external_path(entries.get("location", ""), folder, tensor.name, where)
        tensor.raw_data = _external_bytes(path, entries, tensor)
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def _external_path(location: str, folder: Path | None, name: str, where: str) -> Path:
    if folder is None:
        raise ExternalDataError(
            "External data needs a folder to lie in, and a model given as bytes has none",
            where=f"{where}, tensor {name}",
            got=location,
            do="give the path of the model file",
        )
    root = folder.resolve()
    path = (folder / location).resolve()
    if not location or Path(location).is_absolute() or not path.is_relative_to(root):
        raise ExternalDataError(
            "External data lies outside the model's folder",
            where=f"{where}, tensor {name}",
            got=location or "no location",
            expected=f"a relative path inside {folder}",
            do="save the model with its data beside it",
        )
    if not path.is_file():
        raise ExternalDataError(
            "External data is missing",
            where=f"{where}, tensor {name}",
            got=f"no file {location}",
            expected=f"a file in {folder}",
            do="copy the data file beside the model",
        )
    return path


def _external_bytes(path: Path, entries: dict[str, str], tensor: TensorProto) -> bytes:
    size = path.stat().st_size
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", size - offset))
    except ValueError:
        offset, length = -1, -1
    if offset < 0 or length < 0 or offset + length > size:
        raise ExternalDataError(
            "External data ends before the tensor does",
            where=f"{path}, tensor {tensor.name}",
            got=f"{size:,} bytes",
            expected=f"offset {entries.get('offset', 0)} and length {entries.get('length', '?')} within them",
            do="copy the data file again",
        )
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _check_tensors(proto: onnx.ModelProto, where: str) -> None:
    for tensor in _tensors(proto):
        if tensor.HasField("raw_data") and len(tensor.raw_data) < _packed_bytes(tensor):
            raise TruncatedModelError(
                "A tensor has less data than its shape needs",
                where=f"{where}, tensor {tensor.name}",
                got=f"{len(tensor.raw_data):,} bytes",
                expected=f"{_packed_bytes(tensor):,} bytes for shape {tuple(tensor.dims)}",
                do="copy or export the model again",
            )


def _packed_bytes(tensor: TensorProto) -> int:
    """Bytes that the tensor's raw data must have; 0 where elements are smaller than a byte."""
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, ValueError, TypeError):
        return 0
    is_packed = "int4" in dtype.name or "int2" in dtype.name or "float4" in dtype.name
    return 0 if is_packed or dtype == np.dtype(object) else _declared_bytes(tensor)


def _check(proto: onnx.ModelProto, where: str) -> None:
    try:
        onnx.checker.check_model(proto)
    except Exception as error:  # the checker raises several unrelated types
        raise LoadError(
            "The model is not valid ONNX",
            where=where,
            got=" ".join(str(error).split())[:400],
            expected="a model that onnx.checker accepts",
            do="export the model again",
        ) from error


def _facts(proto: onnx.ModelProto, path: Path | None, digest: str) -> ModelFacts:
    return ModelFacts(
        path=str(path) if path is not None else None,
        sha256=digest,
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        opsets={opset.domain or "ai.onnx": opset.version for opset in proto.opset_import},
        num_nodes=sum(len(graph.node) for graph, _ in _graphs(proto.graph)),
        num_parameters=sum(_num_elements(tensor) for tensor in _tensors(proto) if _is_parameter(tensor)),
    )


def _is_parameter(tensor: TensorProto) -> bool:
    """Floating-point tensors of more than one element: initializers, and constants that hold weights."""
    floats = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
    return tensor.data_type in floats and _num_elements(tensor) > 1


def _num_elements(tensor: TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64))
