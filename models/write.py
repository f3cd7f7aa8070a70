"""The zoo as files."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from lsc_graph.errors import UsageError

from .checks import pick
from .registry import build
from .registry import names as all_names


def write_zoo(
    folder: str | os.PathLike[str], names: Sequence[str] | None = None, seed: int = 0
) -> list[Path]:
    """Write models with their default options to `<folder>/<name>.onnx`.

    Each file appears complete or not at all; one of the same name is replaced. Nothing is written when a
    name is wrong.

    Args:
        folder: made if it is not there.
        names: which models; all by default.
        seed: of their weights.

    Returns:
        The files' paths, in the order of the names.

    Raises:
        UsageError: a name is unknown, or the folder cannot be written to.
    """
    chosen = all_names() if names is None else tuple(dict.fromkeys(names))
    for name in chosen:
        pick(name, all_names(), "model in the zoo")
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        return [_write(target / f"{name}.onnx", _bytes(name, seed)) for name in chosen]
    except OSError as error:
        raise UsageError(
            "The folder cannot be written to",
            where=str(target),
            got=error.strerror or str(error),
            do="choose another folder",
        ) from error


def _bytes(name: str, seed: int) -> bytes:
    data: bytes = build(name, seed).SerializeToString(deterministic=True)
    return data


def _write(path: Path, data: bytes) -> Path:
    """Write beside the target, then rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path
