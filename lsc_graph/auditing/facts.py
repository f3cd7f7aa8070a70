"""What a report says of a model before anything is measured."""

from __future__ import annotations

from importlib.metadata import version

from lsc_graph.layers.cells import CellGraph
from lsc_graph.prepare import Prepared
from lsc_graph.recurrence.delays import delays_of
from lsc_graph.recurrence.site import RecurrentSite
from lsc_graph.recurrence.weights import step_nodes, trained_tensors
from lsc_graph.results import Axis, InputFacts, LayerFacts, Recurrence, StateFacts, Tool


def tool() -> Tool:
    return Tool("lsc-graph", version("lsc-graph"))


def recurrences(prepared: Prepared) -> tuple[Recurrence, ...]:
    found: dict[str, Recurrence] = {}
    for site, own in zip(prepared.findings.sites, prepared.cells, strict=True):
        delays = delays_of(site)
        states = tuple(StateFacts(state.name, state.shape, state in delays) for state in site.states)
        ids = tuple(cell.layer.id for cell in own)
        before = found.get(site.recurrence)
        nodes = (() if before is None else before.nodes) + step_nodes(site)
        found[site.recurrence] = Recurrence(
            id=site.recurrence,
            form=site.form,
            node=site.node if before is None else before.node,
            direction=site.direction,
            over=Axis.DEPTH if site.over_depth else Axis.TIME,
            num_steps=site.num_steps,
            num_nodes=len(nodes),
            nodes=nodes,
            states=states if before is None else before.states + states,
            weights=tuple(
                dict.fromkeys(
                    (
                        *(() if before is None else before.weights),
                        *trained_tensors(prepared.findings.model.graph, site, _others(prepared, site)),
                    )
                )
            ),
            layer_ids=ids if before is None else before.layer_ids + ids,
            chosen=site.chosen if before is None else before.chosen + site.chosen,
        )
    return tuple(found.values())


def _others(prepared: Prepared, site: RecurrentSite) -> list[RecurrentSite]:
    """The recurrences that a site is none of the directions of."""
    return [other for other in prepared.findings.sites if other.recurrence != site.recurrence]


def bare_layers(cells: CellGraph, *, are_times_seen: bool) -> tuple[LayerFacts, ...]:
    """Layers without measures; when they read other recurrences is said if a run has shown it."""
    sources = {
        layer.id: tuple(dict.fromkeys(e.source for e in cells.depth_edges if e.target == layer.id))
        for layer in cells.layers
    }
    recurrence = {layer.id: layer.recurrence for layer in cells.layers}
    return tuple(
        LayerFacts(
            id=layer.id,
            name=layer.name,
            recurrence=layer.recurrence,
            state_size=layer.state_size,
            time_radius=None,
            time_gain=None,
            depth_from=sources[layer.id],
            depth_times=tuple(
                cells.times_read(source, layer)
                if are_times_seen or recurrence[source] == layer.recurrence
                else ()
                for source in sources[layer.id]
            ),
            depth_radius=None,
            depth_gain=None,
            depth_edges=(),
        )
        for layer in cells.layers
    )


def input_facts(prepared: Prepared) -> tuple[InputFacts, ...]:
    carried = {carry.before for carry in prepared.findings.carried}
    return tuple(
        InputFacts(
            name=value.name,
            dtype=str(value.dtype),
            shape=prepared.plan.shapes[value.name],
            source="state, zero at first" if value.name in carried else prepared.plan.sources[value.name],
        )
        for value in prepared.plan.inputs
    )
