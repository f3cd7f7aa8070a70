"""Which state variables a layer shows to the layers above, and which layers read which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from lsc_graph.layers.cells import Cell, DepthEdge, Layer
from lsc_graph.recurrence.dataflow import body_values, direct_sources, inputs_of
from lsc_graph.recurrence.find import Findings
from lsc_graph.recurrence.site import RecurrentSite
from lsc_graph.results import Form


def exposed_states(findings: Findings, cells: Sequence[Sequence[Cell]]) -> dict[str, frozenset[str]]:
    """Per layer, the states that others read within a step or that reach the step's outputs.

    The c of an LSTM is not among them, for example. Where only final states are used, these count;
    where nothing is, all states do.
    """
    needed = _needed(findings.model.graph)
    carried = {carry.after for carry in findings.carried}
    result = {}
    for own in cells:
        site = own[0].site if own else None
        if site is None:
            continue
        outputs = [s.body for s in site.outputs if _is_shown(site, s.main, needed, carried)]
        shown = states_behind(site, outputs)
        shown |= {state.name for cell in own for state in cell.below_now}
        finals = {state.name for state in site.states if state.final and state.final in needed}
        for cell in own:
            names = {state.name for state in cell.layer.states}
            result[cell.layer.id] = frozenset(names & shown or names & finals or names)
    return result


def _is_shown(site: RecurrentSite, main: str, needed: set[str], carried: set[str]) -> bool:
    return main not in carried if site.form is Form.STREAMING else main in needed


def _needed(graph: ir.Graph) -> set[str]:
    """Names of the values that some graph output is computed from."""
    pending, seen = list(graph.outputs), set(graph.outputs)
    while pending:
        node = pending.pop().producer()
        fresh = [value for value in inputs_of(node) if value not in seen] if node is not None else []
        seen.update(fresh)
        pending += fresh
    return {str(value.name) for value in seen}


def states_behind(site: RecurrentSite, outputs: Sequence[str]) -> set[str]:
    """Names of the states that body outputs are directly computed from."""
    values = body_values(site.body.graph)
    owner = {values[state.after]: state.name for state in site.states}
    found = set()
    for name in outputs:
        value = values[name]
        sources = {value} if value in owner else direct_sources(value, owner)
        found |= {owner[source] for source in sources}
    return found


def structural_depth_edges(findings: Findings, cells: Sequence[Sequence[Cell]]) -> tuple[DepthEdge, ...]:
    """Depth edges between different recurrences by dataflow alone.

    Equal times are assumed where a sequence is read; whether that is so is settled when the model runs. What
    reads a last state does so at every step, or before the first one where it starts from it.
    """
    values = body_values(findings.model.graph)
    longest = max((site.num_steps for site in findings.sites), default=1)
    whole, last = _writers(values, cells)
    found: dict[tuple[str, str], set[tuple[int, int]] | None] = {}
    for cell in (cell for own in cells for cell in own):
        first, final = _ends(cell.layer, longest)
        every = range(min(first, final), max(first, final) + 1)
        read = [s.main for s in cell.site.inputs if s.body in cell.slices]
        read += [cell.site.captures[name] for name in cell.captures if name in cell.site.captures]
        starts = [state.initial for state in cell.layer.states if state.initial]
        for layer in _read(read, values, whole):
            found[layer.id, cell.layer.id] = None
        for names, times, writers in ((read, every, last), (starts, [first], whole | last)):
            for layer in _read(names, values, writers):
                pairs = found.setdefault((layer.id, cell.layer.id), set())
                if pairs is not None:
                    pairs |= {(_ends(layer, longest)[1], time) for time in times}
    order = {cell.layer.id: index for index, cell in enumerate(cell for own in cells for cell in own)}
    edges = [
        DepthEdge(*ends, time_pairs=None if pairs is None else tuple(sorted(pairs)))
        for ends, pairs in found.items()
    ]
    return tuple(sorted(edges, key=lambda edge: (order[edge.target], order[edge.source])))


Writers = dict[ir.Value, list[Layer]]


def _writers(values: Mapping[str, ir.Value], cells: Sequence[Sequence[Cell]]) -> tuple[Writers, Writers]:
    """The layers that sequences show, and those of which values are the last states."""
    whole: Writers = {}
    last: Writers = {}
    for own in cells:
        site = own[0].site
        for sequence in site.outputs:
            shown = states_behind(site, [sequence.body])
            whole[values[sequence.main]] = [c.layer for c in own if shown & {s.name for s in c.layer.states}]
        for state in site.states:
            if state.final:
                last[values[state.final]] = [c.layer for c in own if state in c.layer.states]
    return whole, last


def _read(names: Sequence[str], values: Mapping[str, ir.Value], writers: Writers) -> Iterator[Layer]:
    """The layers that values are computed from, by what these write."""
    for name in names:
        value = values.get(name)
        reached = {value} & writers.keys() or direct_sources(value, writers) if value else set()
        for source in reached:
            yield from writers[source]


def _ends(layer: Layer, longest: int) -> tuple[int, int]:
    """A layer's first and last time, in its own order."""
    final = (longest if layer.num_steps is None else layer.num_steps) - 1
    return (final, 0) if layer.time_step < 0 else (0, final)
