"""Points that pieces for ONNX Runtime are run at: inputs with a leading axis of points, others for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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


def mapped_rows(
    take: Callable[..., tuple[Tensor, ...]], count: int, dims: Sequence[Any], *arguments: Any
) -> tuple[tuple[Tensor, ...], Any]:
    """The rule of vmap for products with rows [K, (points,) *shape], maybe several at a point.

    Args:
        take: called as take(box, flags, size, wanted, num_values, *values, *rows), for rows of results.
        count: how many are mapped over.
        dims: along which axis of each argument; None for what is the same for all.
        arguments: those of `take`.
    """
    box, flags, size, wanted, num_values, *tensors = arguments
    values, rows = tensors[:num_values], tensors[num_values:]
    value_dims, row_dims = dims[5:][:num_values], dims[5:][num_values:]
    front = [
        own.movedim(dim, 0) if dim is not None else own.expand(count, *own.shape)
        for own, dim in zip(rows, row_dims, strict=True)
    ]
    if all(dim is None for dim in value_dims):
        folded = [own.reshape(-1, *own.shape[2:]) for own in front]
        found = take(box, flags, size, wanted, num_values, *values, *folded)
        return tuple(own.reshape(count, -1, *own.shape[1:]) for own in found), (0,) * len(found)
    flags, merged = merged_points(values, value_dims, flags, count, size)
    total = count if size is None else count * size
    folded = [own.movedim(0, 1) for own in front]
    if size is not None:
        folded = [own.reshape(own.shape[0], total, *own.shape[3:]) for own in folded]
    found = take(box, flags, total, wanted, num_values, *merged, *folded)
    if size is not None:
        found = tuple(own.reshape(own.shape[0], count, size, *own.shape[2:]) for own in found)
    return found, (1,) * len(found)


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
