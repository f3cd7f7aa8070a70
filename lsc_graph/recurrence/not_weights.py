"""Floating-point tensors of a file that look like weights: settings, statistics, tables, first states."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.made import is_made
from lsc_graph.recurrence.bases import is_basis
from lsc_graph.recurrence.dataflow import inputs_of
from lsc_graph.recurrence.unrolled.constants import is_offset

_ADDED = frozenset(("Add", "Sub"))
_SPREAD = frozenset(("Expand", "Tile", "Concat"))
_MOVED = frozenset(("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Gather", "Identity", "Cast"))
_MULTIPLIED = frozenset(("Mul", "MatMul", "Einsum"))
_WAVES = frozenset(("Sin", "Cos"))
_SIZES = frozenset(("Shape", "Size"))


def why_not_a_weight(value: ir.Value, stored: np.ndarray, statistics: Collection[str]) -> str | None:
    """Why an initializer is not trained, as its use and its values tell; None if it is.

    Args:
        value: the initializer, in the graph that reads it.
        stored: its elements.
        statistics: names of the running statistics of the model.
    """
    if stored.size <= 1:
        return "a single number is a setting"
    if value.name in statistics:
        return "running statistics"
    if _is_folded(value):
        return "the first step's constant, computed from its start and weights"
    are_equal = bool((stored == stored.flat[0]).all())
    if are_equal and ((stored.ndim > 1 and min(stored.shape) > 1) or is_made(value)):
        return "all of its elements are equal"
    if is_made(value) and is_of_one_step(value):
        return "the number of a step decides it"
    if not stored.any() and is_initial_state(value):
        return "an initial state of zeros"
    if is_table(value):
        return "a table that is added: positions"
    if are_frequencies(value):
        return "frequencies of positions"
    return "a fixed basis" if is_basis(stored) else None


def _is_folded(value: ir.Value) -> bool:
    """Whether a value is only read to tell what a first step has to add to what it computes."""
    return bool(value.uses()) and all(
        node.op_type == "Sub" and is_offset(node.outputs[0]) for node, _ in value.uses()
    )


def running_statistics(graph: ir.Graph) -> set[str]:
    """Values that are the running mean or variance of a BatchNormalization, in inner graphs too."""
    nodes = (node for node in graph.all_nodes() if node.op_type == "BatchNormalization")
    return {str(value.name) for node in nodes for value in node.inputs[3:5] if value is not None}


def is_table(value: ir.Value) -> bool:
    """Whether a value of two axes or more is only ever added to something, as tables of positions are."""
    shape = value.shape
    if shape is None or sum(size != 1 for size in shape) < 2:
        return False
    pending, seen = [value], set[ir.Value]()
    while pending:
        current = pending.pop()
        for node, _ in current.uses():
            if node.op_type in _MOVED:
                pending += [output for output in node.outputs if output not in seen]
                seen.update(node.outputs)
            elif node.op_type not in _ADDED:
                return False
        if current.is_graph_output():
            return False
    return bool(value.uses())


def are_frequencies(value: ir.Value) -> bool:
    """Whether a value is only multiplied by numbers that no input decides, of which waves are taken."""
    pending, seen, factors = [value], set[ir.Value](), list[ir.Value]()
    while pending:
        current = pending.pop()
        if current.is_graph_output() or not current.uses():
            return False
        for node, _ in current.uses():
            if node.op_type in _MOVED | _SPREAD | _MULTIPLIED:
                pending += [output for output in node.outputs if output not in seen]
                seen.update(node.outputs)
                factors += [factor for factor in node.inputs if factor is not None]
            elif node.op_type not in _WAVES:
                return False
    return not _is_any_data(factors)


def _is_any_data(values: Iterable[ir.Value]) -> bool:
    """Whether what a graph is given, beyond its sizes, decides any of the values."""
    pending, seen = list(values), set[ir.Value]()
    while pending:
        value = pending.pop()
        node = value.producer()
        if value in seen or value.is_initializer() or (node is not None and node.op_type in _SIZES):
            continue
        if node is None:
            return True
        seen.add(value)
        pending += inputs_of(node)
    return False


def is_initial_state(value: ir.Value) -> bool:
    """Whether loops start from a value, and nothing else reads it."""
    pending, seen = [value], set[ir.Value]()
    while pending:
        current = pending.pop()
        if current.is_graph_output():
            return False
        for node, position in current.uses():
            if node.op_type in _MOVED | _SPREAD:
                pending += [output for output in node.outputs if output not in seen]
                seen.update(node.outputs)
            elif node.op_type != "Scan" or position >= _num_carried(node):
                return False
    return bool(value.uses())


def is_of_one_step(value: ir.Value) -> bool:
    """Whether loops read a value as one of a sequence of constants, and nothing else reads it."""
    pending, seen = [value], set[ir.Value]()
    while pending:
        current = pending.pop()
        if current.is_graph_output() or not current.uses():
            return False
        for node, position in current.uses():
            is_joined = node.op_type == "Concat" and not _is_any_data(inputs_of(node))
            if is_joined or node.op_type in _MOVED:
                pending += [output for output in node.outputs if output not in seen]
                seen.update(node.outputs)
            elif node.op_type != "Scan" or position < _num_carried(node) or current is value:
                return False
    return True


def _num_carried(scan: ir.Node) -> int:
    return len(scan.inputs) - scan.attributes.get_int("num_scan_inputs", 0)
