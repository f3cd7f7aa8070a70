"""Weights that look like those of steps, though none were recognised: named, so that nothing is left out."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from lsc_graph.recurrence.ends import initial_states
from lsc_graph.recurrence.layered.row_ways import ELEMENTWISE
from lsc_graph.recurrence.unrolled.affine import is_affine
from lsc_graph.recurrence.unrolled.chains import (
    MIN_STEPS,
    SLICES_ARE_A_CHAIN,
    Order,
    own_levels,
    repeated_uses,
)
from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.recurrence.unrolled.lanes import is_alike
from lsc_graph.recurrence.unrolled.reads import OTHER_WEIGHTS
from lsc_graph.recurrence.unrolled.sequence_chains import readings_of
from lsc_graph.recurrence.unrolled.slices import time_slice
from lsc_graph.results import Refusal

_MOST_USES = 2 * MIN_STEPS
_MOST_NAMED = 3
_ENTERS = (
    "are side by side, but what stands behind one enters what stands behind another, as in steps whose first "
    f"was simplified away: at least {MIN_STEPS} equal ones are needed to tell: export it with more steps"
)

_GATES = (
    "are side by side, but what stands behind each multiplies what came from those before, as gates of steps "
    f"that read no weight after them do: more than {MIN_STEPS} steps are needed to tell: export it with more"
)


def find_unrecognised(
    graph: ir.Graph, refused: Sequence[Refusal]
) -> tuple[tuple[Refusal, ...], tuple[str, ...]]:
    """Further candidates that are refused, and a warning if there is any that may be a recurrence.

    Args:
        graph: with the steps that were recognised brought back to loops.
        refused: why repeated uses of constants are none.
    """
    order, constants = Order(graph), Constants(graph)
    reasons = {refusal.candidate: refusal.reason for refusal in refused}
    # Layers of a stack do not take one slice of a sequence after the other.
    are_layers = not any(SLICES_ARE_A_CHAIN in reason for reason in reasons.values())
    likely: dict[str, str] = {}
    for constant, nodes in repeated_uses(order, constants):
        name = str(constant.name)
        if constants.is_uniform(constant):
            continue
        # Two uses of a factor or a mask for every element may be no more than shared, and so are more of
        # them among weights that differ: layers of a stack.
        is_shared = all(node.op_type in ELEMENTWISE for node in nodes)
        fewest = 2 if constants.is_matrix(constant) and not is_shared else MIN_STEPS
        if max(own_levels(order, nodes)) >= fewest:
            reason = reasons.get(name, "its uses follow each other")
            if not (is_shared and are_layers and OTHER_WEIGHTS in reason):
                likely[name] = reason
        elif is_shared or not constants.is_matrix(constant):
            continue
        elif len(nodes) <= _MOST_USES and _meet([node.outputs for node in nodes], order):
            likely[name] = f"its {len(nodes)} uses {_ENTERS}"
        elif _are_gates([node.outputs for node in nodes], order):
            likely[name] = f"its {len(nodes)} uses {_GATES}"
    for source, slices in _few_slices(order, constants) if not likely else ():
        if _meet(slices, order):
            likely[str(source.name)] = f"its {len(slices)} slices {_ENTERS}"
        elif _are_gates(slices, order):
            likely[str(source.name)] = f"its {len(slices)} slices {_GATES}"
    more = tuple(
        Refusal(name, "unrolled", text) for name, text in likely.items() if reasons.get(name) != text
    )
    return more, tuple(_words(likely))


def _words(likely: Mapping[str, str]) -> Iterator[str]:
    named = sorted(likely, key=lambda name: likely[name].endswith(_ENTERS))[:_MOST_NAMED]
    more = f" and {len(likely) - len(named)} more" if len(likely) > len(named) else ""
    if named:
        yield (
            f"{', '.join(named)}{more}: perhaps steps of a recurrence that was not recognised; {named[0]}: "
            f"{likely[named[0]]}"
        )


def _few_slices(order: Order, constants: Constants) -> Iterator[tuple[ir.Value, list[list[ir.Value]]]]:
    """Sequences of two or three slices, with the values that are each of these."""
    found: defaultdict[tuple[ir.Value, int], defaultdict[int, list[ir.Value]]]
    found = defaultdict(lambda: defaultdict(list))
    for value in (value for node in order.nodes for value in node.outputs):
        taken = time_slice(value, constants)
        if taken is not None and taken.source not in constants:
            found[taken.source, taken.axis][taken.index].append(value)
    for (source, _), slices in found.items():
        if MIN_STEPS - 1 <= len(slices) <= MIN_STEPS:
            yield source, [slices[index] for index in sorted(slices)]


def _meet(uses: Sequence[Sequence[ir.Value]], order: Order) -> bool:
    """Whether an operation behind one use depends on the same operation behind another one."""
    behind = [_first_curved(values, order) for values in uses]
    return any(
        first is not second and is_alike(first, second) and order.levels([first, second])[second] == 2
        for one, two in itertools.permutations(behind, 2)
        for first, second in itertools.product(one, two)
        if order.index[first] < order.index[second]
    )


def _are_gates(uses: Sequence[Sequence[ir.Value]], order: Order) -> bool:
    """Whether what is computed from one use after the other multiplies a value that the uses before made.

    That value is more than the last product: of three factors none is a gate.
    """
    if not MIN_STEPS <= len(uses) <= MIN_STEPS + 1:
        return False
    places = {value: place for place, values in enumerate(uses) for value in values}
    joins: dict[tuple[int, int], list[ir.Node]] = defaultdict(list)
    for node, position, window, is_join in readings_of(order, places):
        if is_join and node.op_type == "Mul" and window.width == 1:
            joins[position, window.newest].append(node)
    return any(
        second.inputs[1 - position] is not first.outputs[0] and order.levels([first, second])[second] == 2
        for position, place in list(joins)
        for first in joins[position, place]
        for second in joins.get((position, place + 1), ())
    )


def _first_curved(values: Sequence[ir.Value], order: Order) -> list[ir.Node]:
    """The first operations behind some values that are not affine functions of them.

    A recurrent operator that starts from one of them is none: it is no step of what hands on such states.
    """
    found: list[ir.Node] = []
    seen: set[ir.Node] = set()
    pending = list(values)
    while pending:
        value = pending.pop()
        read = {use.node for use in value.uses() if use.idx not in initial_states(use.node)}
        for reader in (read & order.index.keys()) - seen:
            seen.add(reader)
            if is_affine(reader, value):
                pending += reader.outputs
            else:
                found.append(reader)
    return found
