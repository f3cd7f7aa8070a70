"""New values of initializers, written into the model as it was read: nothing else in it changes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onnx import ModelProto

from lsc_graph.canonical.origins import Origin, find_tensor
from lsc_graph.errors import UsageError, WriteBackError
from lsc_graph.files import is_same_file, replaced
from lsc_graph.model_file.file_format import parse_model
from lsc_graph.model_file.provenance import PROVENANCE
from lsc_graph.model_file.tensor_data import is_external
from lsc_graph.writeback.external import copy_data, external_files
from lsc_graph.writeback.tensors import Array, encoded, overwrite
from lsc_graph.writeback.verify import verify_file

Source = str | os.PathLike[str] | bytes | ModelProto


def with_values(proto: ModelProto, values: Mapping[Origin, Array]) -> ModelProto:
    """A copy of a model, all tensors in memory, with new values in some of its tensors.

    Raises:
        WriteBackError: there is no such tensor, or the values do not fit it.
    """
    copy = ModelProto()
    copy.CopyFrom(proto)
    for origin, array in values.items():
        overwrite(_tensor(copy, origin), array)
    return copy


def with_provenance(proto: ModelProto, provenance: Mapping[str, Any]) -> None:
    """Note in the model's metadata, in place, where its values come from; an older note is replaced."""
    text = json.dumps(provenance, sort_keys=True)
    for entry in proto.metadata_props:
        if entry.key == PROVENANCE:
            entry.value = text
            return
    proto.metadata_props.add(key=PROVENANCE, value=text)


@contextmanager
def written(
    source: Source,
    target: Path,
    values: Mapping[Origin, Array],
    provenance: Mapping[str, Any],
    *,
    is_in_place_allowed: bool = False,
) -> Iterator[Path]:
    """Write a model under a temporary name; it becomes `target` if the block, which may check it, succeeds.

    Whatever fails or interrupts the block, the file that was at `target` before stays whole.

    Args:
        source: the model as it was read.
        target: where it shall be written.
        values: new values by origin.
        provenance: JSON-ready facts for the model's metadata.
        is_in_place_allowed: whether `target` may be the source itself.

    Yields:
        The path of the complete model under its temporary name, its external data beside it.

    Raises:
        UsageError: `target` is the source, or its folder cannot be written to.
        WriteBackError: values do not fit.
        VerificationError: what was written, read again, differs in more than the values.
    """
    check_target(source, target, is_in_place_allowed)
    proto, folder = _raw(source)
    data: list[Path] = []
    try:
        with replaced(target, suffix=".onnx") as temporary:
            if folder is not None and external_files(proto):
                data = _write_external(proto, values, folder, target)
            for origin, array in values.items():
                tensor = _tensor(proto, origin)
                if not is_external(tensor):
                    overwrite(tensor, array)
            with_provenance(proto, provenance)
            temporary.write_bytes(proto.SerializeToString())
            verify_file(temporary, source, values, PROVENANCE)
            yield temporary
    except OSError as error:
        _remove(data)
        raise UsageError("The model cannot be written", where=str(target), got=error.strerror) from error
    except BaseException:
        _remove(data)
        raise


def _write_external(
    proto: ModelProto, values: Mapping[Origin, Array], folder: Path, target: Path
) -> list[Path]:
    tensors = {origin: _tensor(proto, origin) for origin in values}
    new = {id(t): encoded(t, values[origin]) for origin, t in tensors.items() if is_external(t)}
    return copy_data(proto, new, folder, target)


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def check_target(source: Source, target: Path, is_in_place_allowed: bool) -> None:
    """Refuse a target that cannot or must not be written, before anything is computed for it.

    Raises:
        UsageError: there is no such folder, the target is one, or it is the source.
    """
    if not target.parent.is_dir():
        raise UsageError("There is no such folder to write to", where=str(target.parent))
    if target.is_dir():
        raise UsageError("The output is a folder", where=str(target), expected="the name of a file")
    if is_in_place_allowed or isinstance(source, bytes | ModelProto):
        return
    if is_same_file(Path(source), target):
        raise UsageError(
            "The output is the input itself",
            where=str(target),
            do="choose another name, or ask for it with --in-place",
        )


def _raw(source: Source) -> tuple[ModelProto, Path | None]:
    """The model as it stands, external data left where they are, and its folder."""
    if isinstance(source, ModelProto):
        copy = ModelProto()
        copy.CopyFrom(source)
        return copy, None
    if isinstance(source, bytes):
        return parse_model(source, None), None
    path = Path(source)
    return parse_model(path.read_bytes(), str(path)), path.parent


def _tensor(proto: ModelProto, origin: Origin) -> Any:
    tensor = find_tensor(proto, origin)
    if tensor is None:
        raise WriteBackError("The model has no such tensor", where="/".join(origin))
    return tensor
