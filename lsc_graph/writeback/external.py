"""Data files beside a model, copied with the new values in them."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from onnx import ModelProto, TensorProto

from lsc_graph.files import is_same_file, replaced
from lsc_graph.model_file.proto_walk import model_scopes, tensors_of
from lsc_graph.model_file.tensor_data import is_external, num_bytes


def external_files(proto: ModelProto) -> dict[str, list[TensorProto]]:
    """The tensors whose data lie in each data file, by the file's location relative to the model."""
    found: defaultdict[str, list[TensorProto]] = defaultdict(list)
    for scope in model_scopes(proto):
        for tensor in tensors_of(scope):
            if is_external(tensor):
                found[_entry(tensor, "location", "")].append(tensor)
    return dict(found)


def copy_data(proto: ModelProto, new_data: Mapping[int, bytes], source: Path, target: Path) -> list[Path]:
    """Copy every data file of a model to where `target` finds it, with new bytes for some tensors.

    A file that is there already is never written over: a copy gets a name of its own, so that
    neither another model's data nor those of an older `target` are touched. Each copy appears whole.

    Args:
        proto: the model; its locations, offsets and checksums are brought up to date in place.
        new_data: bytes by `id` of the tensor.
        source: folder of the model that was read.
        target: path of the model to be written.

    Returns:
        The files that were written.
    """
    written = []
    for location, tensors in external_files(proto).items():
        origin = source / location
        path, name = _free(target, location, origin, [new_data.get(id(tensor), b"") for tensor in tensors])
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as temporary:
            shutil.copyfile(origin, temporary)
            _patch(temporary, tensors, new_data)
        written.append(path)
        digest = _sha1(path)
        for tensor in tensors:
            _set_entry(tensor, "location", name)
            if _entry(tensor, "checksum", ""):
                _set_entry(tensor, "checksum", digest)
    return written


def _free(target: Path, location: str, origin: Path, contents: Sequence[bytes]) -> tuple[Path, str]:
    """A path that nothing lies at, and its location relative to the target."""
    path = target.parent / location
    if not path.exists() and not is_same_file(path, origin):
        return path, location
    digest = hashlib.sha256(b"".join(contents)).hexdigest()[:8]
    for name in _names(f"{target.name}.{digest}"):
        if not (target.parent / name).exists():
            return target.parent / name, name
    raise AssertionError("names do not end")


def _names(stem: str) -> Iterator[str]:
    yield f"{stem}.data"
    number = 1
    while True:
        yield f"{stem}.{number}.data"
        number += 1


def _patch(path: Path, tensors: Sequence[TensorProto], new_data: Mapping[int, bytes]) -> None:
    """Overwrite regions of a data file; a region that others share is left, and a new one appended."""
    regions = {id(tensor): _region(tensor) for tensor in tensors}
    with path.open("r+b") as file:
        for tensor in tensors:
            data = new_data.get(id(tensor))
            if data is None:
                continue
            start, end = regions[id(tensor)]
            others = (region for key, region in regions.items() if key != id(tensor))
            if any(a < end and start < b for a, b in others):
                start = -(-file.seek(0, os.SEEK_END) // 64) * 64
                _set_entry(tensor, "offset", str(start))
                regions[id(tensor)] = (start, start + len(data))
            file.seek(start)
            file.write(data)


def _region(tensor: TensorProto) -> tuple[int, int]:
    start = int(_entry(tensor, "offset", "0"))
    return start, start + num_bytes(tensor)


def _entry(tensor: TensorProto, key: str, default: str) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == key), default)


def _set_entry(tensor: TensorProto, key: str, value: str) -> None:
    for entry in tensor.external_data:
        if entry.key == key:
            entry.value = value
            return
    tensor.external_data.add(key=key, value=value)


def _sha1(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha1").hexdigest()
