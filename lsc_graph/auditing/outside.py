"""Operators with weights that belong to no layer of a recurrent model: named, so that nothing is left out."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import networkx as nx
import onnx_ir as ir

from lsc_graph.auditing.across_positions import reads_across
from lsc_graph.prepare import Prepared, is_streaming
from lsc_graph.recurrence.dataflow import body_values, inputs_of
from lsc_graph.recurrence.site import RecurrentSite
from lsc_graph.wording import few

MIN_AXES = 2
FEWEST_NAMED = 2
"""A single operator in front (an embedding) or behind (a head) goes without saying."""


def parts_outside(prepared: Prepared) -> tuple[str, ...]:
    """What stands before the first layer, behind the last, or beside them, in words.

    The gradient is followed from state to state: operators between two layers are part of the depth edge,
    those here are not.
    """
    if prepared.chain is not None:
        return ()
    if is_streaming(prepared):
        (site,) = prepared.findings.sites
        graph = site.body.graph
        values = body_values(graph)
        starts = [values[state.before] for state in site.states]
        stops = [values[state.after] for state in site.states]
    else:
        graph = prepared.findings.model.graph
        values = {**body_values(graph), **dict(graph.initializers.items())}
        starts = [values[name] for site in prepared.findings.sites for name in _written(site)]
        stops = [values[name] for site in prepared.findings.sites for name in _read(site)]
    return tuple(_described(graph, starts, stops, are_times=not is_streaming(prepared)))


def _written(site: RecurrentSite) -> list[str]:
    return [*(s.main for s in site.outputs), *(s.final for s in site.states if s.final)]


def _read(site: RecurrentSite) -> list[str]:
    found = [*(s.main for s in site.inputs), *(s.initial for s in site.states if s.initial)]
    return [*found, *site.captures.values()]


def _described(
    graph: ir.Graph, starts: Collection[ir.Value], stops: Collection[ir.Value], *, are_times: bool
) -> Iterator[str]:
    flow: nx.DiGraph[ir.Node] = nx.DiGraph()
    flow.add_nodes_from(graph)
    for node in graph:
        sources = [value.producer() for value in inputs_of(node)]
        flow.add_edges_from((source, node) for source in sources if source is not None)
    first = {use.node for value in starts for use in value.uses() if use.node.graph is graph}
    last = {producer for value in stops if (producer := value.producer()) is not None}
    moved = {use.node for value in graph.inputs for use in value.uses() if use.node.graph is graph} | first
    behind, moving = _downstream(flow, first), _downstream(flow, moved)
    before = _downstream(flow.reverse(copy=False), last)
    values = {*graph.inputs, *starts, *(value for node in moving for value in node.outputs)}
    outside = [node for node in graph if node in moving and node.op_type != "Scan"]
    groups = (
        ("before the first layer", [n for n in outside if n in before and n not in behind]),
        ("behind the last layer", [n for n in outside if n in behind and n not in before]),
        ("beside the layers", [n for n in outside if n not in behind and n not in before]),
    )
    for where, nodes in groups:
        weighted = [node for node in nodes if any(map(_is_weight, inputs_of(node)))]
        if len(weighted) >= FEWEST_NAMED:
            yield (
                f"{len(weighted)} operators with weights stand {where} ({_names(weighted)}): the gradient is "
                "followed from layer to layer, and not through these"
            )
        across = [node for node in nodes if reads_across(node, values)] if are_times else []
        if across:
            yield (
                f"What stands {where} puts several positions together ({_names(across)}): where these are "
                "times, that is a layer which is parallel over time, and which none of the numbers tells of"
            )


def _downstream(flow: nx.DiGraph[ir.Node], starts: set[ir.Node]) -> set[ir.Node]:
    return {node for layer in nx.bfs_layers(flow, list(starts)) for node in layer}


def _names(nodes: list[ir.Node]) -> str:
    return few(f"{node.op_type} {node.name or node.outputs[0].name}" for node in nodes)


def _is_weight(value: ir.Value) -> bool:
    """A tensor of the file with at least two axes: what multiplies, not what is added."""
    tensor = value.const_value
    if not value.is_initializer() or tensor is None or not tensor.dtype.is_floating_point():
        return False
    return len(tensor.shape) >= MIN_AXES
