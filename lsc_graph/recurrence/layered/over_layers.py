"""Which loops run over layers: each iteration reads weights, or a part of the state, of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.rewiring import inner_graphs
from lsc_graph.canonical.shapes import static_shape
from lsc_graph.errors import LscGraphError
from lsc_graph.recurrence.dataflow import inputs_of
from lsc_graph.recurrence.layered.released import carried_of, is_loop
from lsc_graph.recurrence.loops.decided import array_of, find_decided, max_trips, run
from lsc_graph.recurrence.loops.indexed import IndexedRead, find_indexed_reads
from lsc_graph.recurrence.loops.parts import LoopParts, parts_of

MAX_LAYERS = 256
"""Loops that run more often are left as they are."""
_RECURRENT = frozenset(("Loop", "Scan", "RNN", "GRU", "LSTM"))
_MOVED = ("Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze")
_MATRIX = 2
_PRODUCTS = ("MatMul", "Gemm", "Einsum", "Conv")


@dataclass(frozen=True)
class Iterations:
    """A Loop or Scan that runs a known number of times, and what each iteration reads a slice of."""

    node: ir.Node
    parts: LoopParts
    num: int
    reads: tuple[IndexedRead, ...]
    counters: frozenset[ir.Value] = frozenset()

    @property
    def body(self) -> ir.Graph:
        """What one iteration computes."""
        return self.parts.body


def loops_over_layers(model: ir.Model) -> list[Iterations]:
    """The outermost loops that run over layers; what they carry unchanged has to be released before."""
    constants = _constants(model.graph)
    found: list[Iterations] = []
    pending: list[tuple[ir.Node, ir.Node | None]] = [(node, None) for node in model.graph]
    while pending:
        node, holder = pending.pop()
        iterations = _iterations(node, model) if is_loop(node) and _may_be(node, holder, constants) else None
        if iterations is not None and _Judge(iterations, holder, constants).is_over_layers():
            found.append(iterations)
            continue
        inner = node if is_loop(node) else holder
        pending += [(each, inner) for graph in inner_graphs(node) for each in graph]
    return found


def _constants(graph: ir.Graph) -> set[ir.Value]:
    """Initializers, and what any graph computes from them alone."""
    found = set(graph.initializers.values())
    pending = [graph]
    while pending:
        for node in pending.pop():
            sources = list(inputs_of(node))
            if node.op_type == "Constant" if not sources else found.issuperset(sources):
                found.update(node.outputs)
            pending += inner_graphs(node)
    return found


def _may_be(node: ir.Node, holder: ir.Node | None, constants: set[ir.Value]) -> bool:
    """A cheap look: loops of no weights, that lie in no step and hold none, are over time."""
    if holder is not None or _holds_recurrence(node):
        return True
    return any(_is_weight(value) for value in inputs_of(node) if value in constants)


def _is_weight(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point() and len(value.shape or ()) > 1


def _holds_recurrence(node: ir.Node) -> bool:
    return any(inner.op_type in _RECURRENT for graph in inner_graphs(node) for inner in graph.all_nodes())


def _iterations(node: ir.Node, model: ir.Model) -> Iterations | None:
    if node.op_type == "Scan":
        return _scanned(node)
    parts = parts_of(node)
    limit = max_trips(parts)
    decided = find_decided(parts)
    is_open = limit is None and (parts.max_trips is not None or not decided.decides_end)
    if is_open or not decided.decides_end or (limit is not None and not 1 <= limit <= MAX_LAYERS):
        return None
    try:
        num = run(parts, decided, model.opset_imports.get("", 0), None)
    except LscGraphError:
        return None  # without an end: what that means is said where loops are rewritten
    reads = find_indexed_reads(parts, decided, [carried.before for carried in parts.carried])
    if not 1 <= num <= MAX_LAYERS:
        return None
    return Iterations(node, parts, num, tuple(reads), frozenset(decided.values))


def _scanned(node: ir.Node) -> Iterations | None:
    reads = []
    parts, count = carried_of(node), node.attributes.get_int("num_scan_inputs", 0)
    axes = node.attributes.get_ints("scan_input_axes", [0] * count)
    directions = node.attributes.get_ints("scan_input_directions", [0] * count)
    for index, value in enumerate(parts.body.inputs[len(node.inputs) - count :]):
        source = node.inputs[len(node.inputs) - count + index]
        shape = static_shape(source)
        if source is None or shape is None:
            return None
        axis = axes[index] % len(shape)
        indices = tuple(range(shape[axis]))
        reads.append(IndexedRead(value, source, axis, False, indices[:: -1 if directions[index] else 1]))
    num = len(reads[0].indices) if reads else 0
    return Iterations(node, parts, num, tuple(reads)) if 1 <= num <= MAX_LAYERS else None


class _Judge:
    """Whether iterations are layers.

    A layer has weights of its own, and its number runs over no sequence of the data. Vectors of its own are
    enough where no matrix is shared: else they tell iterations of one layer apart, as embeddings of time do.
    """

    def __init__(self, loop: Iterations, holder: ir.Node | None, constants: set[ir.Value]) -> None:
        self.loop, self.holder, self.constants = loop, holder, constants
        self.own = [read for read in loop.reads if read.source in constants and _differ(read)]

    def is_over_layers(self) -> bool:
        if self._is_stack_of_states():
            return True
        if self.loop.num == 1:
            return self.holder is not None or self._is_single_layer()
        if any(_is_matrix(read) and self._is_multiplied(read.value) for read in self.own):
            return True
        if self._indexes_matrix(graph for node in self.loop.body for graph in inner_graphs(node)):
            return True
        if not self.own or self._shares_matrix():
            return False
        if self.holder is not None:
            return self._reads_no_sequence()
        return _holds_recurrence(self.loop.node) or (self._reads_no_sequence() and self._leaves_none())

    def _is_stack_of_states(self) -> bool:
        """Whether each iteration reads and writes a part of one state of the loop around it."""
        if self.holder is None:
            return False
        outputs = set(self.loop.node.outputs)
        pairs = {c.before: c.after for c in carried_of(self.holder).carried}
        starts = {c.before: c.start for c in self.loop.parts.carried}
        read = {moved_from(starts.get(r.source, r.source)) for r in self.loop.reads if len(r.indices) > 1}
        return any(before in read and moved_from(after) in outputs for before, after in pairs.items())

    def _reads_no_sequence(self) -> bool:
        """Whether everything that iterations read a slice of is a constant or a state."""
        states = {c.before for c in carried_of(self.holder).carried} if self.holder is not None else set()
        states |= {c.before for c in self.loop.parts.carried}
        return all(r.source in self.constants or moved_from(r.source) in states for r in self.loop.reads)

    def _is_single_layer(self) -> bool:
        """Whether the only iteration is a layer around loops over time, its weights stacks of one."""
        stacks = [read for read in self.loop.reads if read.source in self.constants and _is_matrix(read)]
        return _holds_recurrence(self.loop.node) and (bool(stacks) or self._indexes_matrix([self.loop.body]))

    def _indexes_matrix(self, graphs: Iterable[ir.Graph]) -> bool:
        """Whether these graphs read matrices out of a stack, at an index that the iteration decides."""
        decided = set(self.loop.counters)
        pending = list(graphs)
        while pending:
            for node in pending.pop():
                pending += inner_graphs(node)
                own = [value for value in node.inputs if value in decided]
                if own and node.op_type in ("Gather", "Slice") and self._is_stack(node.inputs[0]):
                    return True
                if own and all(v in decided or v in self.constants for v in node.inputs if v is not None):
                    decided.update(node.outputs)
        return False

    def _is_stack(self, value: ir.Value | None) -> bool:
        """Whether a value is constant, and made of matrices."""
        return value in self.constants and _is_weight(value) and len(static_shape(value) or ()) > _MATRIX

    def _leaves_none(self) -> bool:
        """Whether nothing but the last carried values is used."""
        left = self.loop.node.outputs[len(self.loop.parts.carried) :]
        return not any(value.is_graph_output() or any(True for _ in value.uses()) for value in left)

    def _shares_matrix(self) -> bool:
        """Whether every iteration reads one and the same weight matrix."""
        sliced = {read.source for read in self.loop.reads}
        read = {value for value in inputs_of(self.loop.node) if value in self.constants}
        return any(_extent(static_shape(v) or ()) > 1 and _is_weight(v) for v in read - sliced)

    def _is_multiplied(self, value: ir.Value) -> bool:
        """Whether a slice is a factor of what an iteration computes with, inner loops included."""
        pending, seen = [value], {value}
        while pending:
            for node, index in pending.pop().uses():
                others = [v for i, v in enumerate(node.inputs) if i != index and v is not None]
                if node.op_type in _PRODUCTS and not self.constants.issuperset(others):
                    return True
                if node.op_type in _RECURRENT:
                    return True
                new = [out for out in node.outputs if out not in seen] if node.op_type in _MOVED else []
                seen.update(new)
                pending += new
        return False


def _differ(read: IndexedRead) -> bool:
    """Whether the slices of a constant are not all the same; taken for granted where it is computed."""
    value = read.source
    if value.dtype is None or not value.dtype.is_floating_point() or len(set(read.indices)) < 2:
        return False
    array = array_of(value)
    if array is None:
        return True
    slices = [np.take(array, index, read.axis) for index in read.indices]
    return slices[0].size > 1 and any(not np.array_equal(slices[0], each) for each in slices)


def _is_matrix(read: IndexedRead) -> bool:
    shape = list(static_shape(read.source) or ())
    del shape[read.axis]
    return _extent(shape) > 1


def _extent(shape: Sequence[int]) -> int:
    return sum(size != 1 for size in shape)


def moved_from(value: ir.Value) -> ir.Value:
    """What a value holds the elements of, in another order, shape or type."""
    node = value.producer()
    while node is not None and node.op_type in _MOVED and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value
