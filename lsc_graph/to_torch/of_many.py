"""What is chosen from many elements: maxima along axes and in windows, rows at indices that values decide.

For each such selection: a value that follows from every element that could have been chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Args = Sequence[Any]
EXTREMES = frozenset(("max", "min", "amax", "amin"))
_CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
_POOLS = {
    name: number for number in (1, 2, 3) for name in (f"max_pool{number}d", f"max_pool{number}d_with_indices")
}


def extreme_of(name: str, args: Args, kwargs: Mapping[str, Any]) -> Tensor | None:
    """For the largest or smallest along an axis, or of all: the sum of what it is taken from."""
    if name not in EXTREMES or not args or not isinstance(args[0], Tensor):
        return None
    value = args[0]
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if dim is None:
        return value.sum()
    if isinstance(dim, Tensor):
        return None
    return value.sum(dim, bool(kwargs.get("keepdim", args[2] if len(args) > 2 else False)))


def pooled_from(name: str, args: Args, kwargs: Mapping[str, Any], shape: Sequence[int]) -> Tensor | None:
    """For the largest of each window, of a shape: the sum of the window."""
    if name not in _POOLS or not args:
        return None
    number = _POOLS[name]
    names = ("input", "kernel_size", "stride", "padding", "dilation")
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    kernel = _each(given["kernel_size"], number)
    stride = _each(given.get("stride") or kernel, number)
    padding, dilation = _each(given.get("padding", 0), number), _each(given.get("dilation", 1), number)
    value = given["input"]
    # Behind the end by a stride more: windows may reach over it.
    widths = [width for p, s in zip(padding[::-1], stride[::-1], strict=True) for width in (p, p + s)]
    padded = functional.pad(value, widths)
    rows = padded.reshape(-1, 1, *padded.shape[value.ndim - number :])
    summed = _CONVOLUTIONS[number - 1](rows, rows.new_ones(1, 1, *kernel), stride=stride, dilation=dilation)
    for axis, size in enumerate(shape[len(shape) - number :]):
        summed = summed.narrow(axis + 2, 0, size)
    return summed.reshape(*shape)


def rows_of(name: str, args: Args, follows: Callable[[Tensor], bool], shape: Sequence[int]) -> Tensor | None:
    """For elements or rows at indices that values decide, of a shape: the sum of what could stand there."""
    tensors = [value for value in args if isinstance(value, Tensor)]
    if name not in ("gather", "index_select", "__getitem__") or len(tensors) != 2 or not follows(tensors[1]):
        return None
    value, index = tensors
    if name == "__getitem__":
        is_mask = index.dtype is torch.bool or not value.ndim
        return None if is_mask else value.sum(0).expand(shape)
    dim = args[1] % value.ndim
    whole = value.sum(dim, keepdim=True)
    others = [size for axis, size in enumerate(shape) if axis != dim]
    return whole.expand(shape) if others == [s for a, s in enumerate(value.shape) if a != dim] else None


def _each(value: int | Sequence[int], number: int) -> list[int]:
    return [value] * number if isinstance(value, int) else [*value]
