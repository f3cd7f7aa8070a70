"""Where thresholds cut the gradient between states, and what stands in for their derivative."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from lsc_graph.auditing.discrete import jumps
from lsc_graph.prepare import Prepared
from lsc_graph.recurrence.dataflow import body_values, computed_from
from lsc_graph.recurrence.site import RecurrentSite
from lsc_graph.recurrence.thresholds import cut_points
from lsc_graph.results import Form, SurrogateFacts
from lsc_graph.to_torch.program import writes_of
from lsc_graph.to_torch.surrogates import DOMAIN, Surrogate, use_surrogate


def zero_derivatives(prepared: Prepared) -> list[ir.Node]:
    """Thresholds, roundings and other jumps between states, or on the way through a feed-forward model."""
    ways = [(model.graph, sources) for model, sources, _ in _ways(prepared)]
    found = [node for own in ways for find in (cut_points, jumps) for node in find(*own)]
    return list(dict.fromkeys(found))


def put_in(prepared: Prepared, surrogate: Surrogate) -> SurrogateFacts:
    """Let a surrogate stand in for the derivative of every threshold between states, in the torch view."""
    found: list[ir.Node] = []
    for model, sources, captured in _ways(prepared):
        model.opset_imports[DOMAIN] = 1
        found += use_surrogate(model.graph, sources, surrogate, captured)
    return SurrogateFacts(
        shape=surrogate.shape.value,
        dampening=surrogate.dampening,
        sharpness=surrogate.sharpness,
        nodes=tuple(dict.fromkeys(named(node) for node in found)),
    )


def named(node: ir.Node) -> str:
    """A node as reports name it."""
    return f"{node.name or node.outputs[0].name} ({node.op_type})"


def _ways(
    prepared: Prepared,
) -> Iterator[tuple[ir.Model, list[ir.Value], dict[str, ir.TensorProtocol]]]:
    """The models that gradients pass through, each with the values where they are counted from.

    Also what the bodies of recurrences capture of the graph around them that is always the same.
    """
    model, sites = prepared.findings.model, prepared.findings.sites
    values = body_values(model.graph)
    if prepared.chain is not None:
        yield model, [values[name] for name in prepared.chain.boundaries], {}
    for site in sites:
        inside = body_values(site.body.graph)
        below = [inside[name] for name in _from_sites(prepared, site)]
        yield site.body, [*(inside[own.before] for own in site.states), *below], _captured(model.graph, site)
        if site.form is not Form.STREAMING:
            yield model, [values[name] for name in writes_of(site)], {}


def _from_sites(prepared: Prepared, site: RecurrentSite) -> Iterator[str]:
    """Inputs of the body of a recurrence that are computed from what others wrote."""
    graph = prepared.findings.model.graph
    values = body_values(graph)
    others = [own for own in prepared.findings.sites if own is not site and own.form is not Form.STREAMING]
    written = [values[name] for own in others for name in writes_of(own)]
    _, dependent = computed_from(graph, written)
    moving = {str(value.name) for value in (*written, *dependent)}
    yield from (own.body for own in site.inputs if own.main in moving)
    yield from (inner for inner, main in site.captures.items() if main in moving)


def _captured(graph: ir.Graph, site: RecurrentSite) -> dict[str, ir.TensorProtocol]:
    constants = {name: graph.initializers.get(main) for name, main in site.captures.items()}
    return {
        name: value.const_value
        for name, value in constants.items()
        if value is not None and value.const_value is not None
    }
