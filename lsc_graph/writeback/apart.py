"""Files that a command writes, apart from those that it reads and from one another."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lsc_graph.errors import UsageError
from lsc_graph.files import is_same_file
from lsc_graph.model_file.file_format import parse_model
from lsc_graph.writeback.external import external_files


def check_apart(reads: Mapping[str, Any], writes: Mapping[str, Any]) -> None:
    """Refuse to write one file over another; whether the output may be the model is `check_target`'s matter.

    Args:
        reads: paths by the words for them, or what is no path. Data files of a model are read, too.
        writes: paths by the options that name them; None for those that were not given.

    Raises:
        UsageError: two of them are one file.
        LoadError: the model cannot be read.
    """
    written = {name: Path(path) for name, path in writes.items() if path is not None}
    for (one, path), (other, same) in itertools.combinations(written.items(), 2):
        if is_same_file(path, same):
            raise _same(other, path, one)
    for word, path in reads.items():
        if not isinstance(path, str | os.PathLike):
            continue
        read = [Path(path), *(_data_of(Path(path)) if word == "the model" else ())]
        for name, target in written.items():
            for index, file in enumerate(read):
                is_judged_elsewhere = word == "the model" and name == "--output" and not index
                if is_same_file(target, file) and not is_judged_elsewhere:
                    raise _same(name, target, word if not index else f"a data file of {word}")


def _data_of(model: Path) -> list[Path]:
    """Where a model's external data lie."""
    if not model.is_file():
        return []
    proto = parse_model(model.read_bytes(), str(model))
    return [model.parent / location for location in external_files(proto)]


def _same(option: str, path: Path, what: str) -> UsageError:
    return UsageError(
        f"{option} would be written over {what}", where=str(path), do=f"name another file with {option}"
    )
