"""Reads of a buffer that was written into: what is read is what was written there.

`out[:, t + 1] = f(out[:, t])` is a recurrence of what is written, not of the buffer. So it is where results
are appended to a tensor whose end is read. Only writes at constant places are looked into; what is read of
two writes at once is joined from both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from lsc_graph.canonical.rewiring import lift_constants, put_in_place, remove_identities, remove_unused
from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.writer import GraphWriter, Names
from lsc_graph.recurrence.written.pieces import Builder, NotInPiecesError
from lsc_graph.recurrence.written.places import (
    MAX_ELEMENTS,
    Found,
    Part,
    Writes,
    grows,
    is_join,
    is_write,
    only_moves,
)

MAX_PIECES = 4096
# Nodes for one value on the average. More are needed where each step reads all that others have written, as
# in a triangular solve: then nothing is a state of a fixed size, and all the pieces would take long.
_MOST_NODES, _FREE_NODES = 16, 1024


def read_what_was_written(model: ir.Model) -> bool:
    """Read what was written into buffers from where it was computed, in place; True if anything changed.

    Args:
        model: normalised model; values of open shapes stay as they are.
    """
    if not any(is_write(node) or grows(node) for node in model.graph.all_nodes()):
        return False
    before = model.clone()
    is_changed = _forward_all(model)
    if is_changed is None:
        model.graph = before.graph
        return False
    lift_constants(model)
    remove_identities(model)
    passes.TopologicalSortPass()(model)
    if is_changed:  # an exporter does not see that what it reads of a buffer was computed with already
        passes.CommonSubexpressionEliminationPass()(model)
    remove_unused(model)
    return is_changed


def _forward_all(model: ir.Model) -> bool | None:
    """Whether anything was put in the place of what was read; None if that takes too many nodes."""
    writes, names = Writes(MAX_ELEMENTS), Names(model.graph)
    num_values, num_nodes = 0, 0
    for graph in list(model.graphs()):
        writer = GraphWriter(names.unique_prefix("written"), None)
        moving = [node for node in graph if only_moves(node) or is_write(node)]
        for value in (value for node in moving for value in node.outputs):
            num_values += _is_read(value) and _forward(value, graph, writes, writer)
            num_nodes += len(writer.nodes)
            writer.nodes.clear()
            if num_nodes > _FREE_NODES + _MOST_NODES * num_values:
                return None
    return num_values > 0


def _is_read(value: ir.Value) -> bool:
    """Whether anything reads a value but what moves its elements on."""
    return value.is_graph_output() or any(not _moves_on(use.node, use.idx) for use in value.uses())


def _is_of_list(value: ir.Value, found: Sequence[Found]) -> bool:
    """Whether a value is read out of a tensor that results are appended to.

    What is read while the tensor grows is one piece of it, or left as it is.
    """
    if not any(own.is_appended for own in found):
        return False
    is_last = not any(is_join(use.node) for use in value.uses())
    return len({own.part.source for own in found}) == 1 or is_last


def _moves_on(node: ir.Node, index: int) -> bool:
    if is_write(node):
        return index != 1
    return only_moves(node) and (index == 0 or node.op_type == "Concat")


def _forward(value: ir.Value, graph: ir.Graph, writes: Writes, writer: GraphWriter) -> bool:
    """Put what was written in the place of what is read of it, if that can be said in pieces."""
    shape, node = static_shape(value), value.producer()
    if shape is None or node is None or not 0 < math.prod(shape) < writes.budget:
        return False
    found = list(writes.sources(value))
    if writes.budget <= 0 or not (any(own.is_written for own in found) or _is_of_list(value, found)):
        return False
    try:
        made = _put_together([own.part for own in found], shape, writer)
    except NotInPiecesError:
        return False
    finally:  # what is of no use in the end is removed with the rest
        graph.insert_before(node, writer.nodes)
    put_in_place(value, made)
    return True


def _put_together(parts: list[Part], shape: tuple[int, ...], writer: GraphWriter) -> ir.Value:
    sources = list(dict.fromkeys(part.source for part in parts))
    number = {source: index for index, source in enumerate(sources)}
    which, places = np.zeros((2, math.prod(shape)), dtype=np.int64)
    for part in parts:
        which[part.where], places[part.where] = number[part.source], part.places
    return Builder(sources, writer, MAX_PIECES).build(which.reshape(shape), places.reshape(shape))
