"""Selections that are written as arithmetic, m a + (1 - m) b or b + m (a - b), written as such."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from lsc_graph.canonical.rewiring import remove_unused_in

_STANDARD = ("", "ai.onnx")
Mask = tuple[ir.Value, bool]
"""A condition, and whether it holds."""
Selection = tuple[ir.Value, ir.Value, ir.Value]
"""A condition, and what is selected where it holds and where not."""


def write_selections(model: ir.Model) -> None:
    """Write the selections in the bodies of Scans as such, in place."""
    for _, body in scans_of(model):
        write_selections_in(body)


def write_selections_in(body: ir.Graph) -> None:
    """The same of a single graph, such as that of a model that is one step."""
    changed = [node for node in list(body) if _write_as_selection(body, node)]
    if changed:
        remove_unused_in(body)


def scans_of(model: ir.Model) -> Iterator[tuple[int, ir.Graph]]:
    """The Scans of the main graph: how many states they have, and their bodies."""
    for node in model.graph:
        if node.op_type == "Scan" and node.domain in _STANDARD:
            num_states = len(node.inputs) - node.attributes.get_int("num_scan_inputs", 0)
            yield num_states, node.attributes["body"].as_graph()


def _write_as_selection(body: ir.Graph, add: ir.Node) -> bool:
    """m a + (1 - m) b or b + m (a - b), m being a condition turned into numbers, as Where(m, a, b)."""
    if add.op_type != "Add" or add.domain not in _STANDARD:
        return False
    found = _of_two_masked(add) or _of_difference(add)
    if found is None:
        return False
    where = ir.node("Where", found, name=f"{add.name or add.outputs[0].name}.selection")
    old, new = add.outputs[0], where.outputs[0]
    new.type, new.shape = old.type, old.shape
    body.insert_before(add, where)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    new.name, old.name = old.name, f"{old.name}.sum"
    return True


def _of_two_masked(add: ir.Node) -> Selection | None:
    terms = [_masked(value) for value in add.inputs]
    if terms[0] is None or terms[1] is None:
        return None
    (one, first), (other, second) = terms[0], terms[1]
    if one[0] is not other[0] or one[1] == other[1]:
        return None
    return (one[0], first, second) if one[1] else (one[0], second, first)


def _of_difference(add: ir.Node) -> Selection | None:
    for kept, masked in (add.inputs, add.inputs[::-1]):
        found = _masked(masked)
        minus = found[1].producer() if found is not None else None
        if found is None or kept is None or minus is None or minus.op_type != "Sub":
            continue
        (condition, holds), (new, old) = found[0], minus.inputs
        if old is kept and new is not None:
            return (condition, new, kept) if holds else (condition, kept, new)
    return None


def _masked(value: ir.Value | None) -> tuple[Mask, ir.Value] | None:
    """A product of a condition and something else."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Mul" or node.domain not in _STANDARD:
        return None
    for factor, other in (node.inputs, node.inputs[::-1]):
        mask = _mask(factor)
        if mask is not None and other is not None:
            return mask, other
    return None


def _mask(factor: ir.Value | None) -> Mask | None:
    """The condition that a number is one for, and zero without: turned into a number, or one minus that."""
    node = factor.producer() if factor is not None else None
    if node is None or node.domain not in _STANDARD:
        return None
    if node.op_type == "Sub" and _is_one(node.inputs[0]):
        found = _mask(node.inputs[1])
        return (found[0], not found[1]) if found is not None else None
    source = node.inputs[0] if node.op_type == "Cast" else None
    return without_negations(source) if source is not None and source.dtype is ir.DataType.BOOL else None


def _is_one(value: ir.Value | None) -> bool:
    tensor = value.const_value if value is not None else None
    return tensor is not None and tensor.size == 1 and bool((tensor.numpy() == 1).all())


def without_negations(value: ir.Value) -> Mask:
    """A condition without the negations before it."""
    holds = True
    while (node := value.producer()) is not None and node.op_type == "Not" and node.inputs[0] is not None:
        value, holds = node.inputs[0], not holds
    return value, holds
