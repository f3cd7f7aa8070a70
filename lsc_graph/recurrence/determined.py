"""States of unrolled steps that another state determines or is part of: no file tells which are carried."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import onnx_ir as ir

from lsc_graph.recurrence.backwards import is_constant
from lsc_graph.recurrence.dataflow import body_values, direct_sources, original
from lsc_graph.recurrence.site import RecurrentSite, StateVariable, is_differentiable
from lsc_graph.recurrence.unrolled.chosen import NO_STATE
from lsc_graph.results import Form


def determined_warnings(
    site: RecurrentSite, given: Collection[str], main: Mapping[str, ir.Value]
) -> Iterator[str]:
    """A warning for each such state; `given` are the inputs of the model, `main` the values of its graph.

    A step that reads g(h) and hands h on, and one that hands on both, are the same file once equal
    computations of neighbouring steps were merged. Scans, loops and streaming models name their states, and
    so does a first value that is an input of the model.
    """
    if site.form is not Form.UNROLLED:
        return
    states = [state for state in site.states if is_differentiable(site, state)]
    values = body_values(site.body.graph)
    new = {values[state.after]: state.name for state in states}
    fixed = {own.body for own in site.inputs if own.main in main and is_constant(main[own.main])}
    varying = {value for value in site.body.graph.inputs if value.name not in site.captures}
    for state in states:
        if state.initial in given:
            continue
        value = values[state.after]
        for other in _held(value, new):
            yield _words(site, state, f"holds all of state {other}", "other states")
        found = direct_sources(value, (set(new) - {value}) | varying)
        own = {read for read in found if read.name in fixed}
        if len(found - own) == 1 and (only := new.get((found - own).pop())) is not None:
            yield _words(site, state, f"follows from state {only} alone", f"state {only}", bool(own))


def _held(value: ir.Value, new: Mapping[ir.Value, str]) -> list[str]:
    """The states whose new values stand in a value side by side with others."""
    node = original(value).producer()
    if node is None or node.op_type != "Concat":
        return []
    named = {original(other): name for other, name in new.items()}
    parts = [original(part) for part in node.inputs if part is not None]
    return [named[part] for part in parts if part in named]


def _words(
    site: RecurrentSite, state: StateVariable, how: str, less: str, differs_by_step: bool = False
) -> str:
    names = [name for name in site.watched[site.states.index(state)] if name is not None]
    choice = (
        "--state cannot leave it out, as each step computes it with constants of its own"
        if differs_by_step
        else f"--state {names[len(names) // 2]}:{NO_STATE} takes that reading"
    )
    return (
        f"{site.recurrence}: state {state.name} {how}, and steps take over both; if the network carries only "
        f"{less}, its state is smaller, and its radii and gains are others: {choice}"
    )
