"""Sequences whose elements each join several times of another one, as at the levels of a parallel scan."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx_ir as ir

from lsc_graph.recurrence.loops.decided import array_of
from lsc_graph.recurrence.unflipped import operand_axes
from lsc_graph.recurrence.unrolled.reads import Reads

Place = tuple[ir.Value, int]


def joined_times(reads: Reads) -> tuple[str, int] | None:
    """A sequence of which several times were joined before a step reads them as one, and how many.

    It is read elsewhere, too, as a scan needs it for the times between.
    """
    for slices in reads.slices.values():
        for (source, _), nodes in _strided_slices_behind((slices.source, slices.axis)).items():
            if len(nodes) > 1 and any(use.node not in nodes.values() for use in source.uses()):
                return str(source.name), len(nodes)
    return None


def _strided_slices_behind(place: Place) -> dict[Place, dict[int, ir.Node]]:
    """The sequences of which every n-th time was taken on the way back from a place: the nodes, by start."""
    found: defaultdict[Place, dict[int, ir.Node]] = defaultdict(dict)
    seen, pending = {place}, [place]
    while pending:
        value, axis = pending.pop()
        node = value.producer()
        if node is None:
            continue
        start = _start_of_strided(node, axis)
        if start is not None and node.inputs[0] is not None:
            found[node.inputs[0], axis][start] = node
            continue
        axes = operand_axes(node, axis) or [None] * len(node.inputs)
        read = zip(node.inputs, axes, strict=True)
        fresh = {(own, at) for own, at in read if own is not None and at is not None} - seen
        seen |= fresh
        pending += fresh
    return found


def _start_of_strided(node: ir.Node, axis: int) -> int | None:
    """Where a slice of every n-th time, n > 1, begins."""
    if node.op_type != "Slice" or len(node.inputs) < 5:
        return None
    starts, _, axes, steps = (array_of(value) for value in node.inputs[1:5])
    if starts is None or axes is None or steps is None or axis not in axes.reshape(-1).tolist():
        return None
    own = int(np.flatnonzero(axes.reshape(-1) == axis)[0])
    start, step = int(starts.reshape(-1)[own]), int(steps.reshape(-1)[own])
    return start if abs(step) > 1 else None
