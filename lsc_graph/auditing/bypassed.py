"""Layers that outputs are computed from past the last one, as by residual ways, which growth leaves out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx_ir as ir

from lsc_graph.grid.unroll import depths
from lsc_graph.layers.cells import Cell, CellGraph
from lsc_graph.prepare import Prepared, is_streaming
from lsc_graph.recurrence.dataflow import body_values, direct_sources
from lsc_graph.recurrence.site import RecurrentSite
from lsc_graph.recurrence.written.places import only_moves

_SHOWN = 3
Layers = frozenset[str]
Parts = tuple[Layers, ...]


def bypassed_warnings(prepared: Prepared, cells: CellGraph) -> tuple[str, ...]:
    """Which outputs are computed from the last layer and, past it, from others.

    Args:
        prepared: the model.
        cells: its layers with all edges between them.
    """
    if prepared.chain is not None:
        return ()
    depth = depths(cells)
    deepest = max(depth.values(), default=0)
    names = {layer.id: layer.name for layer in cells.layers}
    found: dict[str, str] = {}
    for output, layers in _layers_mixed(prepared):
        lower = sorted((own for own in layers if depth.get(own, deepest) < deepest), key=depth.__getitem__)
        if len(lower) < len(layers):
            found |= {own: output for own in lower if own not in found}
    if not found:
        return ()
    shown = ", ".join(f"{own} ({names[own]})" for own in list(found)[:_SHOWN])
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    outputs = ", ".join(dict.fromkeys(found.values()))
    return (
        f"{shown}{more}: also reached from {outputs} past the last layer, as by a residual way. The gradient "
        "of a loss there takes that way, too; growth and verdict are those from layer to layer",
    )


def _layers_mixed(prepared: Prepared) -> Iterator[tuple[str, Layers]]:
    """For each value that outputs consist of, the layers that it is computed from directly."""
    findings = prepared.findings
    if is_streaming(prepared):
        (site,), (cells,) = findings.sites, prepared.cells
        states = {state.after for state in site.states}
        outputs = [value for value in site.body.graph.outputs if value.name not in states]
        yield from _mixed(outputs, _of_site(site, cells))
        return
    values = {**body_values(findings.model.graph), **findings.model.graph.initializers}
    written: dict[ir.Value, Parts] = {}
    for site, cells in zip(findings.sites, prepared.cells, strict=True):
        body, of_body = body_values(site.body.graph), _of_site(site, cells)
        read = {sequence.body: sequence.main for sequence in site.inputs} | site.captures
        for inner, outer in read.items():
            of_body[body[inner]] = tuple(layers for _, layers in _mixed([values[outer]], written))
        for sequence in site.outputs:
            parts = tuple(layers for _, layers in _mixed([body[sequence.body]], of_body))
            written[values[sequence.main]] = written.get(values[sequence.main], ()) + parts
        for state in site.states:
            if state.final and body.get(state.after) in of_body:
                written[values[state.final]] = of_body[body[state.after]]
    yield from _mixed(findings.model.graph.outputs, written)


def _of_site(site: RecurrentSite, cells: Iterable[Cell]) -> dict[ir.Value, Parts]:
    """The layer of each state, by its values at the start and at the end of a step."""
    values = body_values(site.body.graph)
    return {
        values[name]: (frozenset((cell.layer.id,)),)
        for cell in cells
        for state in cell.layer.states
        for name in (state.before, state.after)
        if name in values
    }


def _mixed(outputs: Iterable[ir.Value], known: Mapping[ir.Value, Parts]) -> Iterator[tuple[str, Layers]]:
    """What is merely joined in an output is no mixture: such are the last states of all layers."""
    for output in outputs:
        pending, seen = [output], {output}
        while pending:
            value = pending.pop()
            node = value.producer()
            if value in known:
                yield from ((str(output.name), layers) for layers in known[value])
            elif node is not None and (only_moves(node) or node.op_type == "Cast"):
                moved = node.inputs if node.op_type == "Concat" else node.inputs[:1]
                fresh = [own for own in moved if own is not None and own not in seen]
                pending += fresh
                seen.update(fresh)
            else:
                parts = (layers for v in direct_sources(value, known.keys()) for layers in known[v])
                yield str(output.name), frozenset().union(*parts)
