"""A model file, checked: every way in which it can be unusable has its own error."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import EncodeError
from onnx import ModelProto, TensorProto

from lsc_graph.errors import LimitExceededError, LoadError, UnsupportedOpsetError
from lsc_graph.model_file.external_data import load_external_data
from lsc_graph.model_file.file_format import MAX_PROTOBUF_BYTES, parse_model
from lsc_graph.model_file.limits import Limits, check_limits
from lsc_graph.model_file.proto_walk import Scope, attribute_tensors, model_scopes, tensors_of
from lsc_graph.model_file.tensor_data import check_tensor, is_float, num_elements
from lsc_graph.model_file.utf8 import check_names
from lsc_graph.results import ModelFacts

Source = str | os.PathLike[str] | bytes | ModelProto
MIN_OPSET = 7
# Every ONNX Runtime that the package allows takes these; later ones are asked about.
SURE_OPSET = 21


@dataclass(frozen=True)
class LoadedModel:
    """A checked model. `proto` holds all tensor data in memory; `sha256` is that of the file itself.

    For a model that was given as a ModelProto, `sha256` is that of its deterministic serialization.
    """

    proto: ModelProto
    path: Path | None
    sha256: str
    facts: ModelFacts


def load(source: Source, limits: Limits | None = None, *, must_run: bool = True) -> LoadedModel:
    """Read a model, with its external data, and check it.

    Args:
        source: path, bytes or ModelProto; the latter is copied.
        limits: caps on nodes, nesting and bytes; generous ones by default.
        must_run: whether to refuse operator sets that onnx knows, but ONNX Runtime does not take.

    Raises:
        NotOnnxError: the bytes are not an ONNX model.
        TruncatedModelError: the model, or the data of one of its tensors, ends too early.
        UnsupportedOpsetError: the operator set is missing, too old, or newer than the runtime.
        ExternalDataError: tensor data is missing or outside the model's folder.
        LimitExceededError: the model is larger than `limits`.
        LoadError: there is no such file, or the model is not valid.
    """
    path = None if isinstance(source, bytes | ModelProto) else Path(source)
    where = None if path is None else str(path)
    proto, digest = _read(source, where)
    check_limits(proto, limits or Limits(), where)
    check_names(proto, where)
    check_opsets(proto, where, must_run=must_run)
    tensors = [tensor for scope in model_scopes(proto) for tensor in tensors_of(scope)]
    load_external_data(tensors, None if path is None else path.parent)
    for tensor in tensors:
        check_tensor(tensor, where)
    _check_valid(proto, where)
    return LoadedModel(proto, path, digest, _facts(proto, where, digest))


def _read(source: Source, where: str | None) -> tuple[ModelProto, str]:
    """The model as it stands, and the SHA-256 of its bytes."""
    if isinstance(source, ModelProto):
        copy = ModelProto()
        copy.CopyFrom(source)
        try:
            data = copy.SerializeToString(deterministic=True)
        except (EncodeError, ValueError) as error:
            raise LimitExceededError(
                "The model does not fit into one protobuf message",
                got=str(error),
                expected=f"at most {MAX_PROTOBUF_BYTES} bytes",
                do="save it with external data, and give its path",
            ) from error
        return parse_model(data, where), hashlib.sha256(data).hexdigest()
    data = source if isinstance(source, bytes) else _bytes_of(Path(source))
    return parse_model(data, where), hashlib.sha256(data).hexdigest()


def _bytes_of(path: Path) -> bytes:
    if path.is_dir():
        raise LoadError(
            "A folder is not a model", where=str(path), expected="an .onnx file", do=_did_you_mean(path)
        )
    if not path.exists():
        raise LoadError("There is no such file", where=str(path), do=_did_you_mean(path.parent))
    if not path.is_file():
        raise LoadError("The model is not a regular file", where=str(path))
    try:
        size = path.stat().st_size
        if size > MAX_PROTOBUF_BYTES:
            raise LimitExceededError(
                "The model file is larger than protobuf can read",
                where=str(path),
                got=f"{size} bytes",
                expected=f"at most {MAX_PROTOBUF_BYTES} bytes",
                do="save the model with external data",
            )
        return path.read_bytes()
    except OSError as error:
        raise LoadError("The file cannot be read", where=str(path), got=error.strerror) from error


def _did_you_mean(folder: Path) -> str | None:
    try:
        names = sorted(path.name for path in folder.glob("*.onnx"))
    except OSError:
        return None
    return f"did you mean {' or '.join(names[:5])}, in {folder}?" if names else None


def _opsets(proto: ModelProto) -> dict[str, int]:
    return {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import}


def check_opsets(proto: ModelProto, where: str | None, *, must_run: bool = True) -> None:
    """Refuse a model of an operator set that is missing, too old, too new, or not run.

    Raises:
        UnsupportedOpsetError: it is.
    """
    version = _opsets(proto).get("ai.onnx")
    newest = onnx.defs.onnx_opset_version()
    if version is None and proto.opset_import:
        operators = dict.fromkeys(node.op_type for node in proto.graph.node)
        raise UnsupportedOpsetError(
            "The model uses operators of other domains than ai.onnx alone",
            where=where,
            got=f"{', '.join(list(operators)[:3])} of {', '.join(_opsets(proto))}",
            expected="an entry for the domain ai.onnx in `opset_import`, and operators of it",
            do="export the forward pass: training operators are not analysed",
        )
    if version is None:
        raise UnsupportedOpsetError(
            "The model does not say which operator set it uses",
            where=where,
            expected="an entry for the domain ai.onnx in `opset_import`",
            do="the file may be cut off: copy it again, or export the model again",
        )
    if not MIN_OPSET <= version <= newest or (must_run and not _is_run(version)):
        raise UnsupportedOpsetError(
            "The model's operator set is not supported",
            where=where,
            got=f"ai.onnx version {version}",
            expected=f"version {MIN_OPSET} to {newest_run(newest)}, which the installed ONNX Runtime takes",
            do="export the model with another opset, or upgrade onnx and onnxruntime",
        )


@functools.cache
def _is_run(version: int) -> bool:
    """Whether the installed ONNX Runtime takes models of an operator set."""
    if version <= SURE_OPSET:
        return True
    import onnxruntime

    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph(
        [node], "probe", [value("x", TensorProto.FLOAT, [1])], [value("y", TensorProto.FLOAT, [1])]
    )
    probe = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # ONNX Runtime has no common base class for its errors.
        return False
    return True


def newest_run(newest: int) -> int:
    """The newest operator set, up to `newest`, that the installed ONNX Runtime takes."""
    return next(version for version in range(newest, 0, -1) if _is_run(version))


def _check_valid(proto: ModelProto, where: str | None) -> None:
    try:
        onnx.checker.check_model(_with_shaped_outputs(proto))
    except (onnx.checker.ValidationError, ValueError, EncodeError) as error:
        raise LoadError(
            "The model is not valid ONNX",
            where=where,
            got=_clean(error),
            do="export the model again, or ask whoever made it",
        ) from error


def _with_shaped_outputs(proto: ModelProto) -> ModelProto:
    """The model itself, or a copy whose outputs all declare a shape.

    The checker insists on one; ONNX Runtime does not, and exporters leave it out.
    """
    bare = [v for v in proto.graph.output if v.type.HasField("tensor_type") and not _has_shape(v)]
    if not bare:
        return proto
    copy = ModelProto()
    copy.CopyFrom(proto)
    for value in copy.graph.output:
        if value.type.HasField("tensor_type") and not _has_shape(value):
            value.type.tensor_type.shape.SetInParent()
    return copy


def _has_shape(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.HasField("shape"))


def _clean(error: Exception) -> str:
    """A checker's message without its context lines."""
    return " ".join(str(error).split("==> Context")[0].split())[:400]


def _facts(proto: ModelProto, where: str | None, digest: str) -> ModelFacts:
    scopes = list(model_scopes(proto))
    return ModelFacts(
        path=where,
        sha256=digest,
        producer=" ".join(filter(None, (proto.producer_name, proto.producer_version))),
        opsets=_opsets(proto),
        num_nodes=sum(len(scope.node) for scope in scopes),
        num_parameters=sum(num_elements(t) for scope in scopes for t in _weights(scope) if is_float(t)),
    )


def _weights(scope: Scope) -> Iterator[TensorProto]:
    """Initializers, and Constant tensors of more than one element: some exporters keep weights there.

    A Constant with a single number is taken for a setting such as an epsilon.
    """
    if isinstance(scope, onnx.GraphProto):
        yield from scope.initializer
    for node in scope.node:
        if node.op_type == "Constant":
            found = (tensor for attribute in node.attribute for tensor in attribute_tensors(attribute))
            yield from (tensor for tensor in found if num_elements(tensor) > 1)
