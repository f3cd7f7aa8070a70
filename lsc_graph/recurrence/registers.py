"""Shift registers: states that hold what was read at several steps, moved on by one place at every step.

As the windows of convolutions that run step by step are carried: the newest value enters at one end, the
oldest leaves at the other. No place comes back to itself, so that each is a state that only delays.
"""

from __future__ import annotations

import networkx as nx
import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.dataflow import copied, depends

MAX_PLACES = 64
Place = tuple[ir.Value, int]


def register_axis(before: ir.Value, after: ir.Value) -> int | None:
    """The axis along which a state is moved on; None if it is no shift register."""
    shape = static_shape(after)
    if shape is None or static_shape(before) != shape or after is before:
        return None
    for axis in reversed(range(len(shape))):
        if 1 < shape[axis] <= MAX_PLACES and _is_moved_on(before, after, axis, shape[axis]):
            return axis
    return None


def _is_moved_on(before: ir.Value, after: ir.Value, axis: int, size: int) -> bool:
    """Whether every place takes over another one, or something new, and at least one does the former."""
    moves: nx.DiGraph[int] = nx.DiGraph()
    for place in range(size):
        source, index = origin(after, axis, place)
        if source is before:
            moves.add_edge(index, place)
        elif depends(source, before):
            return False
    return bool(moves) and nx.is_directed_acyclic_graph(moves)


def origin(value: ir.Value, axis: int, place: int) -> Place:
    """The value, and the place along an axis of it, that one place of a value is copied from."""
    while (found := _before(value, axis, place)) is not None:
        value, place = found
    return value, place


def _before(value: ir.Value, axis: int, place: int) -> Place | None:
    node, source = value.producer(), copied(value)
    if source is not None:
        return source, place
    if node is None or node.domain not in ("", "ai.onnx") or not node.inputs or node.inputs[0] is None:
        return None
    shapes = [static_shape(given) if given is not None else None for given in node.inputs]
    rank = len(static_shape(value) or ())
    if node.op_type == "Concat" and node.attributes.get_int("axis", 0) % rank == axis:
        return _part(node, axis, place)
    if node.op_type == "Split" and shapes[0] and node.attributes.get_int("axis", 0) % rank == axis:
        sizes = [(static_shape(part) or (0,) * rank)[axis] for part in node.outputs]
        return node.inputs[0], place + sum(sizes[: value.index() or 0])
    if node.op_type == "Slice" and shapes[0]:
        return _of_slice(node, axis, place, shapes[0])
    return None


def _part(concat: ir.Node, axis: int, place: int) -> Place | None:
    for part in concat.inputs:
        shape = static_shape(part) if part is not None else None
        if part is None or shape is None:
            return None
        if place < shape[axis]:
            return part, place
        place -= shape[axis]
    return None


def _of_slice(node: ir.Node, axis: int, place: int, shape: tuple[int, ...]) -> Place | None:
    """Where a Slice along the axis, and along no other one, takes a place from."""
    given = [_numbers(value) for value in node.inputs[1:]]
    if any(numbers is None for numbers in given):
        return None
    starts, ends, *rest = [numbers for numbers in given if numbers is not None]
    axes = rest[0] if rest else list(range(len(starts)))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    taken = {axis_ % len(shape): slice(*own) for axis_, *own in zip(axes, starts, ends, steps, strict=True)}
    ranges = {own: range(shape[own])[bounds] for own, bounds in taken.items()}
    if any(len(ranges[own]) != shape[own] or ranges[own].step != 1 for own in ranges if own != axis):
        return None
    source = node.inputs[0]
    assert source is not None
    return source, ranges[axis][place] if axis in ranges else place


def _numbers(value: ir.Value | None) -> list[int] | None:
    if value is None or value.const_value is None:
        return None
    return [int(number) for number in np.asarray(value.const_value.numpy()).reshape(-1)]
