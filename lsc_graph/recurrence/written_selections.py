"""Selections that are written as arithmetic, m a + (1 - m) b or b + m (a - b), written as such."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.rewiring import remove_unused_in
from lsc_graph.recurrence.dataflow import copied

_STANDARD = ("", "ai.onnx")
_COMPARISONS = {
    "Greater": (False, True),
    "LessOrEqual": (False, False),
    "Less": (True, True),
    "GreaterOrEqual": (True, False),
}
"""Whether the operands are swapped, and whether it is asked if the first is greater then."""
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
        body.sort()


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
    """A product of a condition and something else, or zeros in place of that."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type not in ("Mul", "Where") or node.domain not in _STANDARD:
        return None
    if node.op_type == "Where":
        return _replaced(node)
    for factor, other in (node.inputs, node.inputs[::-1]):
        mask = _mask(factor)
        if mask is not None and other is not None:
            return mask, other
    return None


def _replaced(where: ir.Node) -> tuple[Mask, ir.Value] | None:
    """Something that a condition, or that it does not hold, puts zeros in place of."""
    condition, first, second = where.inputs
    if condition is None or first is None or second is None:
        return None
    value, holds = without_negations(condition)
    if _are([second], (0,)):
        return (value, holds), first
    return ((value, not holds), second) if _are([first], (0,)) else None


def _mask(factor: ir.Value | None) -> Mask | None:
    """The condition that a number is one for, and zero without: turned into a number, or one minus that."""
    node = factor.producer() if factor is not None else None
    if node is None or node.domain not in _STANDARD:
        return None
    if node.op_type == "Where" and node.inputs[0] is not None:
        value, holds = without_negations(node.inputs[0])
        is_plain, is_turned = (_are(node.inputs[1:], own) for own in ((1, 0), (0, 1)))
        return (value, holds == is_plain) if is_plain or is_turned else None
    if node.op_type == "Sub" and _are(node.inputs[:1], (1,)):
        found = _mask(node.inputs[1])
        return (found[0], not found[1]) if found is not None else None
    source = node.inputs[0] if node.op_type == "Cast" else None
    if source is not None and source.dtype is ir.DataType.BOOL:
        return without_negations(source)
    return _mask(source)


def _are(values: Sequence[ir.Value | None], numbers: Sequence[int]) -> bool:
    """Whether values are these numbers."""
    tensors = [value.const_value if value is not None else None for value in values]
    return all(
        tensor is not None and tensor.size == 1 and bool((tensor.numpy() == number).all())
        for tensor, number in zip(tensors, numbers, strict=True)
    )


def asked(node: ir.Node | None) -> tuple[ir.Value, ir.Value, bool] | None:
    """Two values, of which a comparison tells whether the first is greater than the second, or is not."""
    if node is None or node.domain not in _STANDARD or node.op_type not in _COMPARISONS:
        return None
    one, other = node.inputs
    if one is None or other is None:
        return None
    is_swapped, is_greater = _COMPARISONS[node.op_type]
    return (other, one, is_greater) if is_swapped else (one, other, is_greater)


def _is_same(one: ir.Value, other: ir.Value) -> bool:
    first, second = one.const_value, other.const_value
    if one is other or first is None or second is None:
        return one is other
    return first.dtype == second.dtype and np.array_equal(first.numpy(), second.numpy())


def without_negations(value: ir.Value) -> Mask:
    """A condition without the negations before it; of comparisons of the same two values, the first one."""
    holds = True
    while (node := value.producer()) is not None:
        negated = node.inputs[0] if node.op_type == "Not" and node.domain in _STANDARD else None
        source = copied(value) if negated is None else negated
        if source is None:
            break
        value, holds = source, holds != (negated is not None)
    found = asked(node)
    if node is None or found is None:
        return value, holds
    greater, less, is_greater = found
    computed = greater if greater.const_value is None else less
    for use in computed.uses():
        other = asked(use.node)
        if other is None or use.node.graph is not node.graph:
            continue
        if _is_same(other[0], greater) and _is_same(other[1], less):
            return use.node.outputs[0], holds == (other[2] == is_greater)
    return value, holds
