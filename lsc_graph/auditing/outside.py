"""Operators with weights that belong to no layer of a recurrent model: named, so that nothing is left out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress

import networkx as nx
import onnx_ir as ir

from lsc_graph.auditing.across_positions import reads_across
from lsc_graph.auditing.positions import Positions, Seen
from lsc_graph.errors import AnalysisError
from lsc_graph.prepare import Prepared, is_streaming
from lsc_graph.recurrence.dataflow import body_values, inputs_of
from lsc_graph.recurrence.site import RecurrentSite
from lsc_graph.running.sampling import Sample
from lsc_graph.wording import few

BEFORE, BEHIND, BESIDE = "before the first layer", "behind the last layer", "beside the layers"
_FLAT = frozenset(("Clip", "HardSigmoid", "HardSwish", "Max", "Min", "Relu", "ThresholdedRelu"))
MIN_AXES = 2
FEWEST_NAMED = 2
"""A single operator in front (an embedding) or behind (a head) goes without saying."""


def parts_outside(prepared: Prepared, sample: Sample | None = None) -> tuple[str, ...]:
    """What stands before the first layer, behind the last, or beside them, in words.

    The gradient is followed from state to state: operators between two layers are part of the depth edge,
    those here are not.

    Args:
        prepared: the model.
        sample: what it is run on, to see which positions are put together; without it, or where a run does
            not tell, operators that usually do so are looked for.
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
    groups = _groups(graph, starts, stops)
    found = list(_weighted(groups))
    if not is_streaming(prepared):
        made = {value for nodes in groups.values() for own in nodes for value in own.outputs}
        positions = _positions(prepared, sample) if made else None
        found += _across(groups, {*starts, *graph.inputs, *made}, positions)
    return tuple(found)


def _positions(prepared: Prepared, sample: Sample | None) -> Positions | None:
    if sample is None:
        return None
    with suppress(AnalysisError):
        return Positions(prepared, sample)
    return None


def _written(site: RecurrentSite) -> list[str]:
    return [*(s.main for s in site.outputs), *(s.final for s in site.states if s.final)]


def _read(site: RecurrentSite) -> list[str]:
    found = [*(s.main for s in site.inputs), *(s.initial for s in site.states if s.initial)]
    return [*found, *site.captures.values()]


def _groups(
    graph: ir.Graph, starts: Collection[ir.Value], stops: Collection[ir.Value]
) -> dict[str, list[ir.Node]]:
    """The operators that belong to no layer and to no edge between two, by where they stand."""
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
    outside = [node for node in graph if node in moving and node.op_type != "Scan"]
    return {
        BEFORE: [n for n in outside if n in before and n not in behind],
        BEHIND: [n for n in outside if n in behind and n not in before],
        BESIDE: [n for n in outside if n not in behind and n not in before],
    }


def _weighted(groups: Mapping[str, list[ir.Node]]) -> Iterator[str]:
    for where, nodes in groups.items():
        weighted = [node for node in nodes if any(map(_is_weight, inputs_of(node)))]
        if len(weighted) >= FEWEST_NAMED:
            yield (
                f"{len(weighted)} operators with weights stand {where} ({_names(weighted)}): the gradient is "
                "followed from layer to layer, and not through these"
            )


def _across(
    groups: Mapping[str, list[ir.Node]], moving: Collection[ir.Value], positions: Positions | None
) -> Iterator[str]:
    """Where positions are put together, as a run shows, or by operators that usually do so."""
    for where, nodes in groups.items():
        named = [node for node in nodes if reads_across(node, moving)]
        is_settled, told = (
            _told(positions, where, nodes) if positions is not None and nodes else (False, None)
        )
        if positions is not None and told is None and is_settled and (named or any(map(_may_be_flat, nodes))):
            positions.look_further()
            is_settled, told = _told(positions, where, nodes)
        if told is None and not is_settled and named:
            told = _names(named)
        if told is not None:
            yield (
                f"What stands {where} puts several positions together ({told}): where these are "
                "times, that is a layer which is parallel over time, and which none of the numbers tells of"
            )


def _told(positions: Positions, where: str, nodes: Collection[ir.Node]) -> tuple[bool, str | None]:
    """Whether what was seen tells everything, and the first mixing by these operators, in words."""
    seen = _seen(positions, where)
    return seen.is_settled, _first_told(positions, seen, nodes)


def _seen(positions: Positions, where: str) -> Seen:
    sources = positions.written if where == BEHIND else positions.given
    return positions.seen(sources, positions.read if where == BEFORE else positions.outputs)


def _first_told(positions: Positions, seen: Seen, nodes: Collection[ir.Node]) -> str | None:
    """The first mixing that these operators do, in words; not one that others do on the way."""
    for mixing in seen.mixings:
        grown = positions.grown_at(mixing)
        named = [node for node in nodes if any(value.name in grown for value in node.outputs)]
        if named or not grown:
            words = (
                f"changing position {mixing.position} of axis {mixing.axis} of {mixing.source} changes "
                f"{mixing.num_changed} of the {mixing.num_positions} positions of {mixing.target}"
            )
            return "; ".join(filter(None, (words, _names(named))))
    return None


def _downstream(flow: nx.DiGraph[ir.Node], starts: set[ir.Node]) -> set[ir.Node]:
    return {node for layer in nx.bfs_layers(flow, list(starts)) for node in layer}


def _names(nodes: list[ir.Node]) -> str:
    return few(f"{node.op_type} {node.name or node.outputs[0].name}" for node in nodes)


def _may_be_flat(node: ir.Node) -> bool:
    """Whether what a node computes may not move with its input: a ReLU below zero, as on these inputs."""
    return node.op_type in _FLAT and node.domain in ("", "ai.onnx")


def _is_weight(value: ir.Value) -> bool:
    """A tensor of the file with at least two axes: what multiplies, not what is added."""
    tensor = value.const_value
    if not value.is_initializer() or tensor is None or not tensor.dtype.is_floating_point():
        return False
    return len(tensor.shape) >= MIN_AXES
