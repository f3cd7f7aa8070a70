"""Where a model itself cuts a weight apart: by slices, or by multiplying what was joined with it.

The weight of `cat([x, h], 1) @ W` is one for the input and one for the state, whatever their sizes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.layered.rows import taken_ranges

MAX_PIECES = 16
"""An axis that is cut into more pieces, as by a slice for each step, is no row of weights side by side."""
_SAME = frozenset(("Identity", "Cast"))


def read_cuts(values: Iterable[ir.Value]) -> dict[int, tuple[int, ...]]:
    """Per axis of a tensor the places inside it at which it is cut, by who reads what was made from it."""
    found: defaultdict[int, set[int]] = defaultdict(set)
    for value in values:
        shape = static_shape(value)
        for axis, place in _cuts_of(value) if shape is not None else ():
            if 0 < place < (shape or ())[axis]:
                found[axis].add(place)
    return {axis: tuple(sorted(own)) for axis, own in found.items() if len(own) < MAX_PIECES}


def _cuts_of(value: ir.Value) -> Iterator[tuple[int, int]]:
    """Axes of a weight and places on them, followed through what only moves its axes."""
    rank = len(static_shape(value) or ())
    pending = [(value, tuple(range(rank)))]
    while pending:
        current, axes = pending.pop()
        for node, position in current.uses():
            if node.domain not in ("", "ai.onnx"):
                continue
            if node.op_type in _SAME:
                pending.append((node.outputs[0], axes))
            elif node.op_type == "Transpose":
                order = node.attributes.get_ints("perm", None) or range(rank)[::-1]
                pending.append((node.outputs[0], tuple(axes[axis] for axis in order)))
            else:
                yield from ((axes[axis], place) for axis, place in _cuts_by(node, position, current))


def _cuts_by(node: ir.Node, position: int, value: ir.Value) -> Iterator[tuple[int, int]]:
    shape = static_shape(value) or ()
    if node.op_type in ("Slice", "Split") and position == 0:
        for output in node.outputs:
            ranges = taken_ranges(node, output, shape) or ()
            yield from _ends(ranges)
    elif node.op_type in ("MatMul", "Gemm") and position < 2 and len(shape) >= 2:
        other = node.inputs[1 - position]
        at, joined = (len(shape) - 2, -1) if position == 1 else (len(shape) - 1, -2)
        if node.attributes.get_int("transB" if position == 1 else "transA", 0):
            at = 1 - at
        if node.attributes.get_int("transA" if position == 1 else "transB", 0):
            joined = -3 - joined
        yield from ((at, place) for place in _joints(other, joined))


def _ends(ranges: Iterable[range]) -> Iterator[tuple[int, int]]:
    for axis, taken in enumerate(ranges):
        if taken and abs(taken.step) == 1:
            yield from ((axis, place) for place in (min(taken), max(taken) + 1))


def _joints(value: ir.Value | None, axis: int) -> Iterator[int]:
    """Where the pieces of a Concat along an axis, counted from the end, meet."""
    node, shape = value.producer() if value is not None else None, static_shape(value)
    if node is None or shape is None or node.op_type != "Concat":
        return
    if node.attributes.get_int("axis", 0) % len(shape) != axis % len(shape):
        return
    place = 0
    for piece in node.inputs[:-1]:
        own = static_shape(piece)
        if own is None:
            return
        place += own[axis]
        yield place
