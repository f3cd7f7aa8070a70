"""Where a long fit stands, in a file: whole at any moment, and only for the request that it was made by."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lsc_graph.errors import UsageError
from lsc_graph.files import replaced
from lsc_graph.pretraining.shards import rank

State = dict[str, Any]
_KEYS = ("version", "digest", "state")


class Checkpoint:
    """A file that the state of a fit is kept in.

    Args:
        path: of the file.
        request: what the fit depends on, JSON-ready; a state of any other request is refused.
    """

    def __init__(self, path: str | os.PathLike[str], request: Mapping[str, Any]) -> None:
        self.path = Path(path)
        text = json.dumps(request, sort_keys=True, default=str)
        self._digest = hashlib.sha256(text.encode()).hexdigest()

    def save(self, state: State) -> None:
        """Replace the file by one with this state; of several processes, the first one does."""
        if rank() != 0:
            return
        with replaced(self.path) as temporary:
            torch.save({"version": code_version(), "digest": self._digest, "state": state}, temporary)

    def load(self) -> State | None:
        """The state; None if there is no file.

        Raises:
            UsageError: the file is not a checkpoint, or one of another version or request.
        """
        if not self.path.exists():
            return None
        found = _read(self.path)
        written_by, digest, state = (found[key] for key in _KEYS)
        if written_by != code_version():
            raise UsageError(
                "The checkpoint was written by another version of lsc-graph",
                where=str(self.path),
                got=f"version {written_by}",
                expected=f"version {code_version()}: fits of different versions take different steps",
                do="go on with the version that wrote it, or remove the file and start again",
            )
        if digest != self._digest:
            raise UsageError(
                "The checkpoint belongs to another request",
                where=str(self.path),
                expected="the same model, data, targets, method, patterns, steps and seed",
                do="repeat the request that it was made by, or remove the file",
            )
        return dict(state)


def check_place(path: str | os.PathLike[str]) -> None:
    """Refuse, before anything is computed, a place where no checkpoint can be kept.

    Raises:
        UsageError: there is no such folder, or another file than a checkpoint stands there.
    """
    place = Path(path)
    if not place.parent.is_dir():
        raise UsageError("There is no such folder for the checkpoint", where=str(place.parent))
    if place.exists():
        _read(place, "cpu")


def _read(path: Path, device: str | None = None) -> dict[str, Any]:
    try:
        found = torch.load(path, weights_only=True, map_location=device)
    except pickle.UnpicklingError as error:
        raise _unreadable(path, "a file of another kind") from error
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise _unreadable(path, " ".join(str(error).split())[:200]) from error
    if not isinstance(found, dict) or not found.keys() >= set(_KEYS):
        raise _unreadable(path, "a file of another kind")
    return found


def _unreadable(path: Path, got: str) -> UsageError:
    return UsageError(
        "The checkpoint cannot be read",
        where=str(path),
        got=got,
        expected="a file that an earlier fit has kept its state in, or none",
        do="name another file: this one is left alone",
    )


def remove(path: str | os.PathLike[str]) -> None:
    """What a checkpoint was kept for is done; of several processes, the first one removes it."""
    if rank() == 0:
        Path(path).unlink(missing_ok=True)


@cache
def code_version() -> str:
    """This version, and what its code of fits is: a state means nothing to any other."""
    found = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        found.update(file.name.encode() + file.read_bytes())
    return f"{version('lsc-graph')}, code {found.hexdigest()[:8]}"
