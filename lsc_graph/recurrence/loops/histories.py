"""Buffers whose last written row is the state: y[t] = f(y[t-1], ...), read and written by index."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.loops.buffers import Accumulation, scattered
from lsc_graph.recurrence.loops.decided import Decided
from lsc_graph.recurrence.loops.indexed import IndexedRead, indexed_read
from lsc_graph.recurrence.loops.parts import Carried, LoopParts, origin
from lsc_graph.recurrence.writer import GraphWriter


@dataclass(frozen=True)
class History:
    """A buffer that step k writes its result into, and reads where step k - 1 has written.

    Step 0 reads `first_row` of what the buffer starts with.
    """

    written: Accumulation
    reads: tuple[IndexedRead, ...]
    first_row: int


def find_histories(parts: LoopParts, decided: Decided) -> list[History]:
    """The carried buffers of which a step reads nothing but what the step before it has written."""
    found = []
    for carried in parts.carried:
        writer = origin(carried.after).producer()
        if writer is None or writer.op_type != "ScatterND" or writer.inputs[0] is not carried.before:
            continue
        written = scattered(carried, writer, decided)
        readers = {use.node for use in carried.before.uses()} - {writer}
        if written is not None and written.rows and readers:
            history = _history(written, readers, decided)
            found += [history] if history is not None else []
    return found


def _history(written: Accumulation, readers: set[ir.Node], decided: Decided) -> History | None:
    rows, before = written.rows or (), written.carried.before
    reads: list[IndexedRead] = []
    for node in readers:
        read = indexed_read(node, before, decided)
        if read is None or read.axis != written.row_axis or len(read.indices) != len(rows):
            return None
        if read.indices[1:] != rows[:-1] or (reads and read.indices[0] != reads[0].indices[0]):
            return None
        reads.append(read)
    return History(written, tuple(reads), reads[0].indices[0])


def carry_the_row(parts: LoopParts, history: History, writer: GraphWriter) -> None:
    """Let a loop carry the last row of a buffer as a state; the buffer itself is only written into then."""
    carried, axis = history.written.carried, history.written.row_axis
    shape = list(static_shape(carried.start) or ())
    kept = [*shape[:axis], 1, *shape[axis + 1 :]]
    where = writer.integers([history.first_row])
    start = writer.op("Gather", [carried.start, where], "first_row", kept, carried.start.dtype, axis=axis)
    before = ir.Value(name=f"{carried.before.name}.row", type=carried.start.type, shape=ir.Shape(kept))
    bare = [*shape[:axis], *shape[axis + 1 :]]
    for read in history.reads:
        value = before if read.keeps_axis else _body_reshape(parts, before, before, bare, writer, first=True)
        node = read.value.producer()
        ir.convenience.replace_all_uses_with(read.value, value)
        if node is not None:
            parts.body.remove(node, safe=True)
    after = _body_reshape(parts, history.written.element, before, kept, writer, first=False)
    parts.carried.append(Carried(start, before, after, ir.Value()))


def _body_reshape(
    parts: LoopParts, value: ir.Value, like: ir.Value, shape: list[int], writer: GraphWriter, *, first: bool
) -> ir.Value:
    """The value in another shape, of the type of `like`, computed at the start or the end of the body."""
    assert math.prod(shape) == math.prod(static_shape(value) or shape)
    node = ir.node("Reshape", [value, writer.integers(shape)])
    output = node.outputs[0]
    output.name = node.name = f"{value.name}.{'read' if first else 'row'}"
    output.shape, output.type = ir.Shape(shape), like.type
    position = next(iter(parts.body), None)
    if first and position is not None:
        parts.body.insert_before(position, node)
    else:
        parts.body.append(node)
    return output
