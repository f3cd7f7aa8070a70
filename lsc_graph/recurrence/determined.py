"""States of unrolled steps that another state determines or is part of: no file tells which are carried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from lsc_graph.recurrence.dataflow import body_values, copied, direct_sources
from lsc_graph.recurrence.site import RecurrentSite, is_differentiable
from lsc_graph.results import Form


def determined_warnings(site: RecurrentSite) -> Iterator[str]:
    """A warning for each such state.

    A step that reads g(h) and hands h on, and one that hands on both, are the same file once equal
    computations of neighbouring steps were merged. Scans, loops and streaming models name their states.
    """
    if site.form is not Form.UNROLLED:
        return
    states = [state for state in site.states if is_differentiable(site, state)]
    values = body_values(site.body.graph)
    new = {values[state.after]: state.name for state in states}
    varying = {value for value in site.body.graph.inputs if value.name not in site.captures}
    for state in states:
        value = values[state.after]
        for other in _held(value, new):
            yield _words(site, state.name, f"holds all of state {other}", "other states")
        found = direct_sources(value, (set(new) - {value}) | varying)
        if len(found) == 1 and (only := new.get(found.pop())) is not None:
            yield _words(site, state.name, f"follows from state {only} alone", f"state {only}")


def _held(value: ir.Value, new: Mapping[ir.Value, str]) -> list[str]:
    """The states whose new values stand in a value side by side with others."""
    node = _original(value).producer()
    if node is None or node.op_type != "Concat":
        return []
    named = {_original(other): name for other, name in new.items()}
    parts = [_original(part) for part in node.inputs if part is not None]
    return [named[part] for part in parts if part in named]


def _original(value: ir.Value) -> ir.Value:
    while (source := copied(value)) is not None:
        value = source
    return value


def _words(site: RecurrentSite, state: str, how: str, less: str) -> str:
    return (
        f"{site.recurrence}: state {state} {how}, and steps take over both; if the network carries only "
        f"{less}, its state is smaller, and its radii and gains are others"
    )
