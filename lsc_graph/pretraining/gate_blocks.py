"""Packed weights cut into the blocks of their gates and directions, as they are read or by their shapes.

A cut where there is none only adds an unknown, so that guessing too often does no harm.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise, product
from types import MappingProxyType

MAX_GATES = 8
MAX_STACKED = 16
Block = tuple[slice, ...]
_NOTHING: Mapping[int, Sequence[int]] = MappingProxyType({})


def gate_blocks(
    shape: Sequence[int], widths: Collection[int], known: Mapping[int, Sequence[int]] = _NOTHING
) -> tuple[Block, ...]:
    """The blocks of a tensor; a single one where nothing is packed.

    Args:
        shape: the tensor's.
        widths: sizes H of the states; an axis of k H elements, 2 <= k <= 8, holds k gates.
        known: places at which the model itself cuts an axis (`read_cuts`): such an axis is cut there alone.
    """
    cuts = {axis: 1 for axis in range(len(shape)) if axis not in known}
    if _is_stacked(shape) and 0 in cuts:
        cuts[0] = shape[0]
    rest = [axis for axis in cuts if cuts[axis] == 1]
    gates = {axis: _num_gates(shape[axis], widths) for axis in rest}
    widest = max(rest, key=lambda axis: gates[axis], default=None)
    if widest is not None:
        cuts[widest] = gates[widest]
    pieces = [
        _pieces([0, *known[axis], size] if axis in known else range(0, size + 1, size // cuts[axis] or 1))
        for axis, size in enumerate(shape)
    ]
    return tuple(product(*pieces))


def _pieces(places: Sequence[int]) -> list[slice]:
    return [slice(first, last) for first, last in pairwise(places)]


def _is_stacked(shape: Sequence[int]) -> bool:
    """Whether the first axis counts directions or layers, as in [2, 4H, D], [2, 8H] or [L, H, H]."""
    if len(shape) < 2 or shape[0] == 1:
        return False
    if len(shape) == 2:
        return shape[0] == 2 and shape[1] > 2
    return len(shape) == 3 and shape[0] <= MAX_STACKED and shape[0] < min(shape[1:])


def _num_gates(size: int, widths: Collection[int]) -> int:
    """k for an axis of k H elements, by the largest H that fits; 1 for an axis of H elements."""
    if size in widths:
        return 1
    fitting = [size // width for width in widths if width > 1 and size % width == 0]
    return next((count for count in sorted(fitting) if 2 <= count <= MAX_GATES), 1)
