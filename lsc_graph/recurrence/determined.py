"""States of unrolled steps that another state alone determines: no file tells whether both are carried."""

from __future__ import annotations

from collections.abc import Iterator

from lsc_graph.recurrence.dataflow import body_values, direct_sources
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
        found = direct_sources(value, (set(new) - {value}) | varying)
        if len(found) == 1 and (other := new.get(found.pop())) is not None:
            yield (
                f"{site.recurrence}: state {state.name} follows from state {other} alone, and steps take "
                f"over both; if the network carries only {other}, its state is smaller, and its radii and "
                "gains are others"
            )
