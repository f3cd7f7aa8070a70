"""Sequences that a loop body reads at the index of its step."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lsc_graph.recurrence.loops.decided import Array, Decided, array_of
from lsc_graph.recurrence.loops.parts import LoopParts


@dataclass(frozen=True)
class IndexedRead:
    """`value` of the body is `source` at `indices[k]` of `axis` in step k."""

    value: ir.Value
    source: ir.Value
    axis: int
    keeps_axis: bool
    indices: tuple[int, ...]


def find_indexed_reads(
    parts: LoopParts, decided: Decided, also: Collection[ir.Value] = ()
) -> list[IndexedRead]:
    """Reads of values from outside by Gather or Slice, one slice of one axis for each step.

    Args:
        parts: the Loop.
        decided: what the number of the step decides, followed over all steps.
        also: values of the body whose slices count, too.
    """
    inside = {value for node in parts.body for value in node.outputs} | set(parts.body.inputs)
    inside.difference_update(also)
    found = []
    for node in parts.body:
        source = node.inputs[0] if node.inputs else None
        if source is None or source in inside or node in decided.nodes:
            continue
        read = indexed_read(node, source, decided)
        if read is not None and len(set(read.indices)) > 1:
            found.append(read)
    return found


def indexed_read(node: ir.Node, source: ir.Value, decided: Decided) -> IndexedRead | None:
    """What a node reads of a value, if that is one slice at each step."""
    if source.shape is None or node.inputs[0] is not source:
        return None
    if node.op_type == "Gather":
        return _gathered(node, source, decided)
    return _sliced(node, source, decided) if node.op_type == "Slice" else None


def _arrays(value: ir.Value | None, decided: Decided) -> list[Array] | None:
    """What an operand is at each step; a single entry if it never changes."""
    if value is None:
        return None
    array = array_of(value)
    return decided.arrays.get(value) if array is None else [array]


def _gathered(node: ir.Node, source: ir.Value, decided: Decided) -> IndexedRead | None:
    arrays = _arrays(node.inputs[1], decided)
    axis = node.attributes.get_int("axis", 0) % max(len(source.shape or ()), 1)
    size = (source.shape or ())[axis]
    if arrays is None or not isinstance(size, int) or any(a.size != 1 or a.ndim > 1 for a in arrays):
        return None
    indices = [int(array.reshape(-1)[0]) for array in arrays]
    if any(not -size <= index < size for index in indices):
        return None
    return IndexedRead(node.outputs[0], source, axis, arrays[0].ndim == 1, tuple(i % size for i in indices))


def _sliced(node: ir.Node, source: ir.Value, decided: Decided) -> IndexedRead | None:
    operands = [_arrays(value, decided) for value in node.inputs[1:]]
    if any(
        value is not None and arrays is None for value, arrays in zip(node.inputs[1:], operands, strict=True)
    ):
        return None
    dims = list(source.shape or ())
    sizes = [dim for dim in dims if isinstance(dim, int)]
    if len(sizes) < len(dims):
        return None
    num_steps = max(len(arrays) for arrays in operands if arrays is not None)
    taken = [_ranges(_step_operands(operands, step), sizes) for step in range(num_steps)]
    moving = [axis for axis, size in enumerate(sizes) if any(len(step[axis]) != size for step in taken)]
    if len(moving) != 1 or any(len(step[moving[0]]) != 1 for step in taken):
        return None
    axis = moving[0]
    return IndexedRead(node.outputs[0], source, axis, True, tuple(step[axis][0] for step in taken))


def _step_operands(operands: list[list[Array] | None], step: int) -> list[Array | None]:
    return [None if arrays is None else arrays[step if len(arrays) > 1 else 0] for arrays in operands]


def _ranges(operands: list[Array | None], sizes: list[int]) -> list[range]:
    """Which indices of each axis a Slice takes."""
    starts, ends = (np.asarray(operand).reshape(-1) for operand in operands[:2])
    axes = operands[2] if len(operands) > 2 and operands[2] is not None else np.arange(len(starts))
    steps = operands[3] if len(operands) > 3 and operands[3] is not None else np.ones(len(starts), int)
    found = [range(size) for size in sizes]
    for axis, start, end, step in zip(axes.reshape(-1), starts, ends, steps.reshape(-1), strict=True):
        found[int(axis)] = range(sizes[int(axis)])[int(start) : int(end) : int(step)]
    return found
