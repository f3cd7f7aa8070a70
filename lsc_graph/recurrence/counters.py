"""Numbers that count the steps of a loop, in floating point: carried, but no layers."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

import onnx_ir as ir

from lsc_graph.canonical.rewiring import inner_graphs
from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.dataflow import body_values, inputs_of
from lsc_graph.recurrence.loops.decided import MAX_FLOATS
from lsc_graph.recurrence.site import RecurrentSite, StateVariable
from lsc_graph.recurrence.unrolled.constants import Constants


def with_counters(site: RecurrentSite, main: ir.Graph, constants: Constants) -> RecurrentSite:
    """A site that knows its counters: what starts from a constant and is computed from such and constants.

    It may stand there for every unit, as the clock of a phased cell. As in Loops, constants of more than a
    few elements are weights: what they move is a state. What only has a single number added at every step
    is a clock, wherever it starts: written out, its values are one given value and numbers.
    """
    outer = {**dict(main.initializers.items()), **body_values(main)}
    captured = {name: outer.get(value) for name, value in site.captures.items()}
    known = {name for name, value in captured.items() if value is not None and _is_few(value, constants)}
    found = [state for state in site.states if _may_count(state, outer, constants)]
    while True:
        decided = known | {state.before for state in found}
        left = [state for state in found if _is_decided(site, state, decided)]
        if len(left) == len(found):
            break
        found = left
    single = {name for name in known if constants.num_elements(outer[site.captures[name]]) == 1}
    clocks = [state for state in site.states if _is_clock(site, state, single)]
    return replace(site, counters=frozenset(state.name for state in (*found, *clocks)))


def with_clocks(site: RecurrentSite) -> RecurrentSite:
    """A site without captures, as a streaming model is, that knows its clocks."""
    clocks = [state for state in site.states if _is_clock(site, state, frozenset())]
    return replace(site, counters=frozenset(state.name for state in clocks))


def _is_clock(site: RecurrentSite, state: StateVariable, single: Collection[str]) -> bool:
    """Whether a state is what it was before, plus or minus single numbers."""
    values = body_values(site.body.graph)
    before, value = values[state.before], values[state.after]
    while value is not before:
        node = value.producer()
        if node is None or node.domain or node.op_type not in ("Add", "Sub", "Identity"):
            return False
        first, *others = [own for own in node.inputs if own is not None]
        if node.op_type == "Add" and _is_single(first, single):
            first, others = others[0], [first]
        if not all(_is_single(own, single) for own in others):
            return False
        value = first
    return state.after != state.before


def _is_single(value: ir.Value, single: Collection[str]) -> bool:
    return value.name in single or (_is_small_constant(value) and math.prod(static_shape(value) or ()) == 1)


def _may_count(state: StateVariable, outer: dict[str, ir.Value], constants: Constants) -> bool:
    start = outer.get(state.initial) if state.initial else None
    return start is not None and start in constants and constants.is_uniform(start)


def _is_few(value: ir.Value, constants: Constants) -> bool:
    return value in constants and 0 < constants.num_elements(value) <= MAX_FLOATS


def _is_decided(site: RecurrentSite, state: StateVariable, decided: set[str]) -> bool:
    """Whether a new value is computed from decided ones and small constants alone."""
    graph = site.body.graph
    pending, seen = [body_values(graph)[state.after]], set()
    while pending:
        value = pending.pop()
        node = value.producer()
        if value in seen or value.name in decided or _is_small_constant(value):
            continue
        seen.add(value)
        sources = list(inputs_of(node)) if node is not None else []
        if node is None or not sources or inner_graphs(node):
            return False
        pending += sources
    return True


def _is_small_constant(value: ir.Value) -> bool:
    node = value.producer()
    tensor = value.const_value if value.is_initializer() else None
    if node is not None and node.op_type == "Constant" and "value" in node.attributes:
        tensor = node.attributes["value"].as_tensor()
    return tensor is not None and tensor.size <= MAX_FLOATS
