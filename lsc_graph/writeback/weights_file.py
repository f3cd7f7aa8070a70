"""Weights of a model as a safetensors file, by the names that the torch module has for them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence

import onnx_ir as ir
import torch
from onnx import ModelProto, TensorProto

from lsc_graph.canonical.origins import Origin, find_tensor, mark_origins, origin_of
from lsc_graph.errors import UsageError, WriteBackError
from lsc_graph.files import write_bytes
from lsc_graph.model_file.load import Source, load
from lsc_graph.writeback.tensors import encoded, values_of

_TYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
}


def save_weights(path: str | os.PathLike[str], model: Source, names: Sequence[str]) -> None:
    """Write tensors of a model, in their own types, so that the file appears whole.

    Args:
        path: the .safetensors file.
        model: the model that holds them.
        names: their names, with the path to them before it inside inner graphs (`lsc_graph.origins`), as
            in `PretrainReport.trained`.

    Raises:
        UsageError: the safetensors package is missing, or the file cannot be written.
        WriteBackError: the model has no such tensor of a floating-point type.
    """
    save = saver()
    proto = load(model).proto
    found = {"/".join(origin): find_tensor(proto, origin) for origin in _origins(proto)}
    tensors = {}
    for name in names:
        tensor = found.get(name)
        if tensor is None or tensor.data_type not in _TYPES:
            raise WriteBackError("The model has no such tensor of a floating-point type", where=name)
        data = bytearray(encoded(tensor, values_of(tensor)))
        tensors[name] = torch.frombuffer(data, dtype=_TYPES[tensor.data_type]).reshape(tuple(tensor.dims))
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    try:
        write_bytes(path, save(tensors, metadata={"format": "pt", "model": json.dumps(metadata)}))
    except OSError as error:
        raise UsageError("The weights cannot be written", where=str(path), got=error.strerror) from error


def saver() -> Callable[..., bytes]:
    """What makes the file's bytes.

    Raises:
        UsageError: the safetensors package is missing.
    """
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise UsageError(
            "Weights can only be saved with the package safetensors",
            do="pip install 'lsc-graph[safetensors]'",
        ) from error
    return save


def _origins(proto: ModelProto) -> Iterator[Origin]:
    """Where tensors stand: initializers and constants, of inner graphs and functions too."""
    model = ir.from_proto(proto)
    mark_origins(model)
    graphs = [*model.graphs(), *(function.graph for function in model.functions.values())]
    for graph in graphs:
        values = [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]
        yield from (origin for origin in map(origin_of, values) if origin is not None)
