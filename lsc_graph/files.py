"""Files that are either whole or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced(path: str | os.PathLike[str], suffix: str = "") -> Iterator[Path]:
    """A temporary file beside `path`, to be filled in the block; it becomes `path` if the block succeeds.

    No reader, and no interruption, ever sees a part of the file: if the block fails, what was at
    `path` stays, and the temporary file is removed.

    Args:
        path: where the file shall be.
        suffix: how the temporary file's name ends.
    """
    target = Path(path)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file so that it appears whole."""
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a binary file so that it appears whole."""
    with replaced(path) as temporary:
        temporary.write_bytes(data)


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file, links followed, whether it exists or not."""
    return one.resolve() == other.resolve()
