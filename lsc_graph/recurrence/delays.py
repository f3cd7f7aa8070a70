"""States that only carry something to the next step, such as its input: layers with a time radius of zero."""

from __future__ import annotations

from collections.abc import Iterator

import networkx as nx

from lsc_graph.recurrence.dataflow import body_values, direct_sources
from lsc_graph.recurrence.site import RecurrentSite, StateVariable, is_differentiable


def delay_warnings(site: RecurrentSite) -> Iterator[str]:
    """A warning that names the delays of a site: states that come back to themselves by no way.

    A network that is written with windows of its sequence instead, as quasi-recurrent ones are, has edges
    over two steps in their place: it has fewer layers, and other path counts.
    """
    names = [state.name for state in site.states if is_differentiable(site, state)]
    graph = _feeds(site)
    returning = {name for part in nx.strongly_connected_components(graph) if len(part) > 1 for name in part}
    delays = [name for name in names if name not in returning and not graph.has_edge(name, name)]
    if delays and len(delays) < len(names):
        yield (
            f"{site.recurrence}: what is carried as {', '.join(delays)} only delays by one step what a step "
            "reads or computes: a layer of its own, with a time radius of 0; where a network reads windows "
            "of its sequence instead, there are fewer layers, and the paths are counted without these"
        )


def _feeds(site: RecurrentSite) -> nx.DiGraph[str]:
    """Which state at one step enters which one at the next."""
    values = body_values(site.body.graph)
    before: dict[object, StateVariable] = {values[state.before]: state for state in site.states}
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(state.name for state in site.states)
    for state in site.states:
        after = values[state.after]
        stops = {value for value in site.body.graph.inputs if value in before}
        sources = {after} if after in before else direct_sources(after, stops)
        graph.add_edges_from((before[value].name, state.name) for value in sources)
    return graph
