"""States that only carry something to the next step, such as its input: they delay it, and are no layers."""

from __future__ import annotations

import networkx as nx
import onnx_ir as ir

from lsc_graph.recurrence.dataflow import body_values, direct_sources
from lsc_graph.recurrence.site import RecurrentSite, StateVariable, is_differentiable


def delays_of(site: RecurrentSite) -> tuple[StateVariable, ...]:
    """The delays of a site, each behind those that it reads: states that come back to themselves by no way.

    What writes one and what reads it are joined by an edge over one more step, as they are where a network
    is written with windows of its sequences instead. A recurrence of delays alone has nothing else, and
    keeps them as its layers: none are named here.
    """
    states = {state.name: state for state in site.states if is_differentiable(site, state)}
    graph = _feeds(site)
    delays = states.keys() - _returning(graph)
    if len(delays) == len(states):
        return ()
    order = nx.lexicographical_topological_sort(graph.subgraph(delays), list(states).index)
    return tuple(states[name] for name in order)


def new_states(site: RecurrentSite) -> tuple[list[ir.Value], list[ir.Value]]:
    """What a step hands on: new states, and what is only delayed."""
    values, delays = body_values(site.body.graph), delays_of(site)
    states = [state for state in site.states if state not in delays]
    return [values[state.after] for state in states], [values[state.after] for state in delays]


def only_delays(site: RecurrentSite) -> bool:
    """Whether nothing that a site carries comes back to itself, as in a convolution step by step."""
    names = {state.name for state in site.states}
    return bool(names) and _returning(_feeds(site)).isdisjoint(names)


def _returning(graph: nx.DiGraph[str]) -> set[str]:
    loops = {name for name in graph if graph.has_edge(name, name)}
    parts = (part for part in nx.strongly_connected_components(graph) if len(part) > 1)
    return loops.union(*parts)


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
