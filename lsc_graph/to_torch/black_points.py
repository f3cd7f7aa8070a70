"""Points that pieces for ONNX Runtime are run at: inputs with a leading axis of points, others for all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from lsc_graph.running.reference import Array
from lsc_graph.to_torch.differences import Differences
from lsc_graph.to_torch.kept import digest_of

Flags = tuple[bool, ...]
"""Which inputs have a leading axis of points."""


def merged_points(
    values: Sequence[Tensor], dims: Sequence[Any], flags: Flags, count: int, size: int | None
) -> tuple[Flags, list[Tensor]]:
    """Values with a new axis of `count` points in front of, and merged with, that of `size`."""
    new_flags, found = [], []
    for value, dim, flag in zip(values, dims, flags, strict=True):
        if dim is None and not flag:
            new_flags.append(False)
            found.append(value)
            continue
        moved = value.movedim(dim, 0) if dim is not None else value.expand(count, *value.shape)
        if size is not None:
            moved = moved if flag else moved[:, None].expand(count, size, *moved.shape[1:])
            moved = moved.reshape(count * size, *moved.shape[2:])
        new_flags.append(True)
        found.append(moved)
    return tuple(new_flags), found


def points(
    record: Differences, flags: Flags, size: int | None, values: Sequence[Tensor]
) -> Iterator[tuple[list[Array], list[bytes]]]:
    """The inputs of every point as arrays, and their digests."""
    shown = [
        value[0] if flag and _is_one(value) else value for value, flag in zip(values, flags, strict=True)
    ]
    varies = [flag and not _is_one(value) for value, flag in zip(values, flags, strict=True)]
    arrays = [np.asarray(value.detach().cpu().numpy(), order="C") for value in shown]
    shared = [None if is_own else record.digests.of(v) for v, is_own in zip(shown, varies, strict=True)]
    for number in range(size or 1):
        point = [np.asarray(a[number]) if is_own else a for a, is_own in zip(arrays, varies, strict=True)]
        yield point, [known or digest_of(value) for known, value in zip(shared, point, strict=True)]


def _is_one(value: Tensor) -> bool:
    """Whether what has a leading axis of points is the same at all of them."""
    return value.shape[0] == 1 or value.stride(0) == 0
