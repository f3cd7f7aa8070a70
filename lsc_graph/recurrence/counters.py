"""Numbers that count the steps of a loop, in floating point: carried, but no layers."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from lsc_graph.canonical.rewiring import inner_graphs
from lsc_graph.recurrence.dataflow import body_values, inputs_of
from lsc_graph.recurrence.loops.decided import MAX_FLOATS
from lsc_graph.recurrence.site import RecurrentSite, StateVariable
from lsc_graph.recurrence.unrolled.constants import Constants


def with_counters(site: RecurrentSite, main: ir.Graph, constants: Constants) -> RecurrentSite:
    """A site that knows its counters: what starts from a constant and is computed from such and constants.

    It may stand there for every unit, as the clock of a phased cell. As in Loops, constants of more than a
    few elements are weights: what they move is a state.
    """
    outer = {**dict(main.initializers.items()), **body_values(main)}
    captured = {name: outer.get(value) for name, value in site.captures.items()}
    known = {name for name, value in captured.items() if value is not None and _is_few(value, constants)}
    found = [state for state in site.states if _may_count(state, outer, constants)]
    while True:
        decided = known | {state.before for state in found}
        left = [state for state in found if _is_decided(site, state, decided)]
        if len(left) == len(found):
            return replace(site, counters=frozenset(state.name for state in found))
        found = left


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
