"""Selections between a new state and an old one, as masked layers make: read from the state that they give.

A masked layer keeps its state where the mask says so, and may put out something else there, such as zeros.
What it puts out elsewhere is its new state, and is read from it: else the layers above would seem to read
past the state. Selections that an exporter writes as arithmetic, m a + (1 - m) b, are selections first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir
import onnx_ir.passes.common as passes

from lsc_graph.canonical.rewiring import remove_unused_in
from lsc_graph.recurrence.dataflow import copied, direct_sources

_STANDARD = ("", "ai.onnx")
Mask = tuple[ir.Value, bool]
"""A condition, and whether it holds."""


def write_selections(model: ir.Model) -> None:
    """Write the selections in the bodies of Scans as such, in place."""
    for _, body in _scans(model):
        changed = [node for node in list(body) if _write_as_selection(body, node)]
        if changed:
            remove_unused_in(body)


def read_selected_states(model: ir.Model) -> None:
    """Let what selects as a new state of a Scan does read that state, in place."""
    changed = []
    for num_states, body in _scans(model):
        afters = list(dict.fromkeys(body.outputs[:num_states]))
        read = [_read_selected(body, after, afters) for after in afters]
        if any(read):
            changed.append(body)
    if changed:
        passes.TopologicalSortPass()(model)
    for body in changed:
        remove_unused_in(body)


def _scans(model: ir.Model) -> Iterator[tuple[int, ir.Graph]]:
    """The Scans of the main graph: how many states they have, and their bodies."""
    for node in model.graph:
        if node.op_type == "Scan" and node.domain in _STANDARD:
            num_states = len(node.inputs) - node.attributes.get_int("num_scan_inputs", 0)
            yield num_states, node.attributes["body"].as_graph()


def _write_as_selection(body: ir.Graph, add: ir.Node) -> bool:
    """m a + (1 - m) b, m being a condition turned into numbers, as Where(m, a, b)."""
    if add.op_type != "Add" or add.domain not in _STANDARD:
        return False
    terms = [_masked(value) for value in add.inputs]
    if terms[0] is None or terms[1] is None:
        return False
    (one, first), (other, second) = terms[0], terms[1]
    if one[0] is not other[0] or one[1] == other[1]:
        return False
    branches = (first, second) if one[1] else (second, first)
    where = ir.node("Where", [one[0], *branches], name=f"{add.name or add.outputs[0].name}.selection")
    old, new = add.outputs[0], where.outputs[0]
    new.type, new.shape = old.type, old.shape
    body.insert_before(add, where)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    new.name, old.name = old.name, f"{old.name}.sum"
    return True


def _masked(value: ir.Value | None) -> tuple[Mask, ir.Value] | None:
    """A product of a condition and something else."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Mul" or node.domain not in _STANDARD:
        return None
    for factor, other in (node.inputs, node.inputs[::-1]):
        cast = factor.producer() if factor is not None else None
        source = cast.inputs[0] if cast is not None and cast.op_type == "Cast" else None
        if source is not None and other is not None and source.dtype is ir.DataType.BOOL:
            return _condition(source), other
    return None


def _condition(value: ir.Value) -> Mask:
    """A condition without the negations before it."""
    holds = True
    while (node := value.producer()) is not None and node.op_type == "Not" and node.inputs[0] is not None:
        value, holds = node.inputs[0], not holds
    return value, holds


def _read_selected(body: ir.Graph, after: ir.Value, afters: Sequence[ir.Value]) -> bool:
    """Where(m, a, z) as Where(m, s, z), where the new state s is Where(m, a, b)."""
    selected = after
    while (source := copied(selected)) is not None:
        selected = source
    node = selected.producer()
    if node is None or node.op_type != "Where" or node.inputs[0] is None:
        return False
    is_changed = False
    for chosen in (0, 1):
        value = _branches(node)[chosen]
        for other in [use.node for use in value.uses()] if value is not None else ():
            if other is node or other.op_type != "Where" or other.graph is not body:
                continue
            is_alike = _condition_of(other) is _condition_of(node) and _branches(other)[chosen] is value
            if is_alike and not _is_before(other, node, afters):
                index = next(i for i in (1, 2) if other.inputs[i] is value)
                other.replace_input_with(index, selected)
                is_changed = True
    return is_changed


def _condition_of(where: ir.Node) -> ir.Value | None:
    return _condition(where.inputs[0])[0] if where.inputs[0] is not None else None


def _branches(where: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    """What is selected if the condition without its negations holds, and if not."""
    is_plain = where.inputs[0] is not None and _condition(where.inputs[0])[1]
    return (where.inputs[1], where.inputs[2]) if is_plain else (where.inputs[2], where.inputs[1])


def _is_before(other: ir.Node, node: ir.Node, afters: Sequence[ir.Value]) -> bool:
    """Whether a node's result is a new state itself, or what another node is computed from."""
    result = other.outputs[0]
    is_state = any(result is after or copied(after) is result for after in afters)
    return is_state or bool(direct_sources(node.outputs[0], {result}))
