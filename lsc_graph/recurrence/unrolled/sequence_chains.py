"""Sequences whose slices enter one computation one after the other: a chain of uses without any weight.

Selective state-space models, and cells whose input projections were hoisted out of the loop, read no weight
in their steps. What numbers the steps is the sequence: slice k first meets what came from the slices before.
It may come in a window, with the few slices before it, as in quasi-recurrent networks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from heapq import heapify, heappop, heappush
from operator import or_

import onnx_ir as ir

from lsc_graph.recurrence.unrolled.chains import MIN_STEPS, Chain, Order, ordered_uses
from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.recurrence.unrolled.slices import TimeSlice, time_slice

_ACCUMULATING = frozenset(
    ("Add", "Sum", "Max", "Min", "Identity", "Concat", "Unsqueeze", "Squeeze", "Reshape")
)
_WIDEST = 8
_Role = tuple[str, str, int]
_SUMS = frozenset(("Add", "Sum"))
_EXTREMES = frozenset(("Max", "Min"))


def find_sequence_chains(order: Order, constants: Constants) -> Iterator[Chain]:
    """Chains of at least three nodes, each the first to join a slice of a sequence with earlier slices.

    A node in front of them that joins the slice before with something else is where a given state comes in.
    """
    for source, slices in find_slices(order, constants):
        uses: defaultdict[tuple[_Role, int, bool], dict[ir.Node, int]] = defaultdict(dict)
        firsts: defaultdict[_Role, dict[ir.Node, int]] = defaultdict(dict)
        for node, position, window, is_join in readings_of(order, slices):
            role = (node.domain, node.op_type, position)
            if is_join:
                uses[role, window.width, window.is_backward][node] = window.newest
            else:
                firsts[role][node] = window.newest
        for (role, *_), nodes in uses.items():
            for part in _in_order(order, nodes):
                before = 2 * nodes[part[0]] - nodes[part[1]]
                first = [node for node, index in firsts[role].items() if index == before]
                first = [node for node in first if order.levels([node, part[0]])[part[0]] == 2]
                yield Chain(source, (*first, *part) if len(first) == 1 else part, is_sequence=True)


def _in_order(order: Order, nodes: Mapping[ir.Node, int]) -> list[tuple[ir.Node, ...]]:
    """Uses of slices as chains; where several use one slice, as the layers above do, the first may be one."""
    if len(nodes) < MIN_STEPS:
        return []
    first: dict[int, ir.Node] = {}
    for node in sorted(nodes, key=order.index.__getitem__):
        first.setdefault(nodes[node], node)
    found = ordered_uses(order, list(nodes))
    is_fewer = MIN_STEPS <= len(first) < len(nodes)
    return found or (ordered_uses(order, list(first.values())) if is_fewer else [])


def is_running_total(nodes: Iterator[ir.Node]) -> bool:
    """Whether steps only add up, or only keep the largest: nothing decays and nothing is learned.

    What does both to its state, m' = max(m + f, i), decays where f is negative: it is no total.
    """
    step = list(nodes)
    if any(node.op_type not in _ACCUMULATING for node in step):
        return False
    kinds = {node.op_type for node in _behind_state(step)}
    return not (kinds & _SUMS and kinds & _EXTREMES)


def _behind_state(step: list[ir.Node]) -> set[ir.Node]:
    """The nodes of a step that the step before enters: what is computed by such a node as ends a step."""
    inside = set(step)
    ends = {node.op_type for node in step if not any(use.node in inside for use in node.outputs[0].uses())}
    found: set[ir.Node] = set()
    for node in step:
        sources = [value.producer() for value in node.inputs if value is not None]
        is_entered = any(s is not None and s not in inside and s.op_type in ends for s in sources)
        if is_entered or found.intersection(s for s in sources if s is not None):
            found.add(node)
    return found


def find_slices(order: Order, constants: Constants) -> Iterator[tuple[ir.Value, dict[ir.Value, int]]]:
    """Sequences that are read slice by slice, with the place of each slice."""
    found: defaultdict[tuple[ir.Value, int, bool], dict[ir.Value, int]] = defaultdict(dict)
    for node in order.nodes:
        for value in node.outputs:
            one: TimeSlice | None = time_slice(value, constants)
            if one is not None and one.source not in constants:
                found[one.source, one.axis, one.keeps_axis][value] = one.index
    for (source, *_), slices in found.items():
        if len(set(slices.values())) > MIN_STEPS:
            yield source, slices


@dataclass(frozen=True)
class _Window:
    """Slices that one input depends on: so many, up to the newest that others do not depend on.

    Where steps go backward, the newest one is the first.
    """

    newest: int
    width: int
    is_backward: bool = False


def _window(mask: int, others: int) -> _Window | None:
    """The slices of an input, as bits, if they are few and go past those that other inputs depend on.

    A single one may be any that these do not depend on.
    """
    width, newest = mask.bit_count(), mask.bit_length() - 1
    oldest = (mask & -mask).bit_length() - 1
    if not mask or newest - oldest + 1 > width or width > _WIDEST:
        return None
    if width == 1:
        return None if mask & others else _Window(newest, width)
    if newest > others.bit_length() - 1:
        return _Window(newest, width)
    return _Window(oldest, width, True) if oldest < (others & -others).bit_length() - 1 else None


def readings_of(order: Order, slices: Mapping[ir.Value, int]) -> Iterator[tuple[ir.Node, int, _Window, bool]]:
    """Nodes, inputs of them that depend on one slice or a few, which, and whether others depend on more."""
    behind = {value: 1 << index for value, index in slices.items()}
    pending = [position for value in slices for position in _readers(order, value)]
    heapify(pending)
    done = -1
    while pending:
        position = heappop(pending)
        if position == done:
            continue
        node, done = order.nodes[position], position
        masks = [behind.get(value, 0) if value is not None else 0 for value in node.inputs]
        union = reduce(or_, masks, 0)
        for number, mask in enumerate(masks):
            others = reduce(or_, masks[:number] + masks[number + 1 :], 0)
            window = _window(mask, others)
            if window is not None:
                yield node, number, window, bool(others)
        for value in node.outputs:
            behind.setdefault(value, union)
            for reader in _readers(order, value):
                heappush(pending, reader)


def _readers(order: Order, value: ir.Value) -> Iterator[int]:
    return (order.index[use.node] for use in value.uses() if use.node in order.index)
