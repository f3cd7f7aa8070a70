"""Values that are one slice of a longer one: x[t] as Gather, Slice or Split write it."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.unflipped import flipped
from lsc_graph.recurrence.unrolled.constants import Constants

_MAX_BEFORE_SLICE = 50
Place = tuple[ir.Value, int]
"""A sequence and the axis along which it is sliced."""


@dataclass(frozen=True)
class TimeSlice:
    """`source` at one index of `axis`; the axis is kept with size 1, or removed."""

    source: ir.Value
    axis: int
    index: int
    keeps_axis: bool


def time_slice(value: ir.Value, constants: Constants) -> TimeSlice | None:
    """What `value` is a slice of, if it is a slice of width one along one axis.

    Where that is the reverse of another value, the slice is said to be of the latter.
    """
    found = _direct_slice(value, constants)
    while found is not None and (earlier := _before_reversal(found)) is not None:
        found = earlier
    return found


def _before_reversal(taken: TimeSlice) -> TimeSlice | None:
    found = flipped(taken.source)
    if found is None or found[1] != taken.axis:
        return None
    source, axis = found
    size = size_along(source, axis)
    return None if size is None else TimeSlice(source, axis, size - 1 - taken.index, taken.keeps_axis)


def _direct_slice(value: ir.Value, constants: Constants) -> TimeSlice | None:
    node = value.producer()
    if node is None or node.domain not in ("", "ai.onnx") or not node.inputs:
        return None
    source = node.inputs[0]
    if source is None or source.shape is None:
        return None
    if node.op_type == "Gather":
        return _gathered(node, source, constants)
    if node.op_type == "Slice":
        return _sliced(node, source, constants)
    if node.op_type == "Split":
        return _split(node, source, value, constants)
    return None


def size_along(value: ir.Value, axis: int) -> int | None:
    """How long a value is along an axis, if that is known."""
    dim = value.shape[axis] if value.shape is not None else None
    return dim if isinstance(dim, int) else None


def _integers(value: ir.Value | None, constants: Constants) -> np.ndarray | None:
    return constants.array(value) if value is not None else None


def _gathered(node: ir.Node, source: ir.Value, constants: Constants) -> TimeSlice | None:
    indices = _integers(node.inputs[1], constants)
    rank = len(source.shape or ())
    axis = node.attributes.get_int("axis", 0) % max(rank, 1)
    size = size_along(source, axis)
    if indices is None or indices.size != 1 or indices.ndim > 1 or size is None:
        return None
    return TimeSlice(source, axis, int(indices.reshape(-1)[0]) % size, indices.ndim == 1)


def _sliced(node: ir.Node, source: ir.Value, constants: Constants) -> TimeSlice | None:
    given = [_integers(value, constants) for value in node.inputs[1:]]
    if len(given) < 2 or given[0] is None or given[1] is None:
        return None
    starts, ends = given[0].reshape(-1), given[1].reshape(-1)
    rank = len(source.shape or ())
    axes = given[2].reshape(-1) % rank if len(given) > 2 and given[2] is not None else np.arange(len(starts))
    steps = given[3].reshape(-1) if len(given) > 3 and given[3] is not None else np.ones(len(starts), int)
    found = None
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = size_along(source, int(axis))
        if size is None:
            return None
        taken = range(size)[int(start) : int(end) : int(step)]
        if len(taken) == size and int(step) > 0:
            continue
        if len(taken) != 1 or found is not None:
            return None
        found = TimeSlice(source, int(axis), taken[0], True)
    return found


def _split(node: ir.Node, source: ir.Value, value: ir.Value, constants: Constants) -> TimeSlice | None:
    axis = node.attributes.get_int("axis", 0) % max(len(source.shape or ()), 1)
    sizes = [(static_shape(output) or (0,) * (axis + 1))[axis] for output in node.outputs]
    index = value.index() or 0
    if sizes[index] != 1 or 0 in sizes[:index]:
        return None
    return TimeSlice(source, axis, sum(sizes[:index]), True)


def continues(earlier: Mapping[int, ir.Value], key: int, value: ir.Value, constants: Constants) -> bool:
    """Whether a value may stand at a key: it is made from what follows the slices of the earlier ones.

    Of windows, the newest slice or the oldest one follows.

    Args:
        earlier: values at two keys; where these are not made from slices that move, any value may follow.
    """
    if len(earlier) < 2 or value in earlier.values():
        return True
    first, last = min(earlier), max(earlier)
    start, end, found = (slices_behind(own, constants) for own in (earlier[first], earlier[last], value))
    expected = []
    for end_of in (min, max):
        for place in start.keys() & end.keys():
            speed = (end_of(end[place]) - end_of(start[place])) / (last - first)
            if speed:
                expected.append((end_of, place, end_of(end[place]) + speed * (key - last)))
    return not expected or any(
        place in found and end_of(found[place]) == index for end_of, place, index in expected
    )


def leading_slices(
    found: Mapping[int, Mapping[Place, Collection[int]]],
) -> Iterator[tuple[Place, int, int]]:
    """The sequences of which each step takes the slice that follows that of the step before.

    Where they take windows it is the slice that leads: the one that those before do not have, or the other
    end, if only that moves with the steps.

    Args:
        found: what `slices_behind` gives, by the numbers of the steps.

    Yields:
        The sequence, whether its slices go up with the numbers (1) or down (-1), and how much is to be added
        to a number to get the slice, or minus the slice.
    """
    for place in set.intersection(*(set(own) for own in found.values())) if found else ():
        if not _are_windows([len(own[place]) for _, own in sorted(found.items())]):
            continue
        for end_of, sign in ((max, 1), (min, -1), (min, 1), (max, -1)):
            differences = {sign * end_of(own[place]) - key for key, own in found.items()}
            if len(differences) == 1:
                yield place, sign, differences.pop()
                break


def _are_windows(widths: list[int]) -> bool:
    """Whether so many slices at each step are windows, which may be cut off at the ends; no growing past."""
    edge = max(widths) - 1
    inner = widths[edge : len(widths) - edge] if edge else widths
    return edge == 0 or (len(inner) > 1 and len(set(inner)) == 1)


def only_slices(value: ir.Value, constants: Constants) -> dict[Place, int]:
    """The sequences of which a value is made from one slice only, with the axis, and which one."""
    found = slices_behind(value, constants)
    return {place: min(indices) for place, indices in found.items() if len(indices) == 1}


def slices_behind(value: ir.Value, constants: Constants) -> dict[Place, set[int]]:
    """The sequences of which a value is made from slices, with the axis, and which ones; the nearest."""
    found: dict[Place, set[int]] = {}
    seen, pending = {value: None}, deque([value])
    while pending and len(seen) < _MAX_BEFORE_SLICE:
        own = pending.popleft()
        taken = time_slice(own, constants)
        if taken is not None:
            found.setdefault((taken.source, taken.axis), set()).add(taken.index)
            continue
        node = own.producer()
        read = [v for v in (node.inputs if node is not None else ()) if v is not None and v not in constants]
        fresh = dict.fromkeys(v for v in read if v not in seen)
        seen |= fresh
        pending += fresh
    return found
