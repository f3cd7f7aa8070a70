"""A written model, read again: only what was meant to change has changed, and it computes what it should."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto

from lsc_graph.canonical.origins import Origin, find_tensor
from lsc_graph.errors import VerificationError
from lsc_graph.model_file.load import Source, load
from lsc_graph.model_file.proto_walk import model_scopes, tensors_of
from lsc_graph.writeback.difference import DATA_FIELDS, differences, without_values
from lsc_graph.writeback.tensors import Array, encoded, values_of

_STORAGE_FIELDS = (*DATA_FIELDS, "external_data", "data_location")


def verify_file(path: Path, source: Source, values: Mapping[Origin, Array], key: str) -> None:
    """Re-read a written model and compare it with what it was made from.

    Args:
        path: the written file, its external data beside it.
        source: the model as it was read.
        values: new values by origin.
        key: the metadata entry that was added.

    Raises:
        VerificationError: the checker refuses the file, a tensor does not hold what it should, or anything
            else than the tensors at those origins and that entry differs.
        LoadError: the file cannot be read.
    """
    before, after = load(source).proto, load(path).proto
    try:
        onnx.checker.check_model(path)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise VerificationError(
            "The written model is not valid", where=path.name, got=" ".join(str(error).split())[:300]
        ) from error
    _check_values(before, after, values)
    for proto in (before, after):
        _read_in(proto)
    stripped = [without_values(proto, values, {key}) for proto in (before, after)]
    found = list(differences(*stripped))
    if found:
        raise VerificationError(
            "More has changed in the written model than its trained tensors",
            where=found[0],
            got=f"{len(found)} differences",
            expected="none",
        )


def _check_values(before: ModelProto, after: ModelProto, values: Mapping[Origin, Array]) -> None:
    for origin, array in values.items():
        old, new = find_tensor(before, origin), find_tensor(after, origin)
        if old is None or new is None or encoded(old, array) != encoded(new, values_of(new)):
            raise VerificationError(
                "A tensor of the written model does not hold its new values", where="/".join(origin)
            )


def _read_in(proto: ModelProto) -> None:
    """All tensor data in one form, wherever it was stored: where it lies may differ, what it is may not."""
    for scope in model_scopes(proto):
        for tensor in tensors_of(scope):
            if tensor.data_type != TensorProto.STRING and _is_stored_apart(tensor):
                data = tensor.raw_data
                for field in _STORAGE_FIELDS:
                    tensor.ClearField(field)
                tensor.raw_data = data


def _is_stored_apart(tensor: TensorProto) -> bool:
    return bool(tensor.external_data) or tensor.HasField("data_location")
