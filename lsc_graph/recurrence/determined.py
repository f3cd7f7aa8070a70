"""States of unrolled steps that another state determines or is part of: no file tells which are carried."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import onnx_ir as ir

from lsc_graph.recurrence.dataflow import body_values, direct_sources, original
from lsc_graph.recurrence.site import RecurrentSite, StateVariable, is_differentiable
from lsc_graph.recurrence.unrolled.chosen import NO_STATE
from lsc_graph.results import Form


def determined_warnings(site: RecurrentSite, given: Collection[str]) -> Iterator[str]:
    """A warning for each such state; `given` are the inputs of the model.

    A step that reads g(h) and hands h on, and one that hands on both, are the same file once equal
    computations of neighbouring steps were merged. Scans, loops and streaming models name their states, and
    so does a first value that is an input of the model.
    """
    if site.form is not Form.UNROLLED:
        return
    states = [state for state in site.states if is_differentiable(site, state)]
    values = body_values(site.body.graph)
    new = {values[state.after]: state.name for state in states}
    varying = {value for value in site.body.graph.inputs if value.name not in site.captures}
    for state in states:
        if state.initial in given:
            continue
        value = values[state.after]
        for other in _held(value, new):
            yield _words(site, state, f"holds all of state {other}", "other states")
        found = direct_sources(value, (set(new) - {value}) | varying)
        if len(found) == 1 and (only := new.get(found.pop())) is not None:
            yield _words(site, state, f"follows from state {only} alone", f"state {only}")


def _held(value: ir.Value, new: Mapping[ir.Value, str]) -> list[str]:
    """The states whose new values stand in a value side by side with others."""
    node = original(value).producer()
    if node is None or node.op_type != "Concat":
        return []
    named = {original(other): name for other, name in new.items()}
    parts = [original(part) for part in node.inputs if part is not None]
    return [named[part] for part in parts if part in named]


def _words(site: RecurrentSite, state: StateVariable, how: str, less: str) -> str:
    names = [name for name in site.watched[site.states.index(state)] if name is not None]
    return (
        f"{site.recurrence}: state {state.name} {how}, and steps take over both; if the network carries only "
        f"{less}, its state is smaller, and its radii and gains are others: "
        f"--state {names[len(names) // 2]}:{NO_STATE} takes that reading"
    )
