"""Loops that only add up what they read, or keep the largest of it: sums, means and maxima over time.

What reads the total of every step, as linear attention does, reads a state.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from lsc_graph.recurrence.dataflow import body_values, direct_sources, original
from lsc_graph.recurrence.site import RecurrentSite, is_differentiable

_ACCUMULATING = frozenset(("Add", "Sum", "Max", "Min"))


def is_running_total(site: RecurrentSite, read: Collection[str]) -> bool:
    """Whether every state is its old value plus, or compared with, something that no state enters.

    Nor does any enter a sequence that the loop leaves and that is among those `read`, but for clocks: they
    add up what no sequence enters.
    """
    values = body_values(site.body.graph)
    states = [state for state in site.states if is_differentiable(site, state)]
    old = {values[state.before] for state in states}
    left = [values[sequence.body] for sequence in site.outputs if sequence.main in read]
    rows = {values[sequence.body] for sequence in site.inputs}
    is_clock = not any(_enter(rows, values[state.after]) for state in states)
    is_read = not is_clock and any(_enter(old, value) for value in left)
    return (
        bool(states) and not is_read and all(_adds_up(values[s.after], values[s.before], old) for s in states)
    )


def _enter(sources: set[ir.Value], value: ir.Value) -> bool:
    return value in sources or bool(direct_sources(value, sources))


def _adds_up(after: ir.Value, before: ir.Value, old: set[ir.Value]) -> bool:
    node = original(after).producer()
    if node is None or node.op_type not in _ACCUMULATING:
        return False
    parts = [original(value) for value in node.inputs if value is not None]
    others = [value for value in parts if value is not before]
    return len(others) == len(parts) - 1 and not any(_enter(old, value) for value in others)
