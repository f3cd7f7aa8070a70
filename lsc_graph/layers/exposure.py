"""Which state variables a layer shows to the layers above, and which layers read which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from lsc_graph.layers.cells import Cell, DepthEdge, Layer
from lsc_graph.recurrence.dataflow import body_values, direct_sources, inputs_of
from lsc_graph.recurrence.delays import delays_of
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
        delays = {cell.layer.name: cell for cell in own[0].delays}
        outputs += [s.after for s in site.states if s.name in delays and s.final and s.final in needed]
        shown = states_behind(site, outputs)
        shown |= {read.name for cell in own for read in cell.reads if read.kind in ("after", "before")}
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
    """Names of the states that body outputs are directly computed from, by way of delays as well."""
    values = body_values(site.body.graph)
    delays = {values[state.before]: values[state.after] for state in delays_of(site)}
    delayed = set(delays.values())
    owner = {values[s.after]: s.name for s in site.states if values[s.after] not in delayed}
    found = set()
    pending = [values[name] for name in outputs]
    stops = owner.keys() | delays.keys()
    while pending:
        value = pending.pop()
        sources = {value} if value in stops else direct_sources(value, stops)
        found |= {owner[source] for source in sources & owner.keys()}
        pending += [delays[source] for source in sources & delays.keys()]
    return found


def structural_depth_edges(findings: Findings, cells: Sequence[Sequence[Cell]]) -> tuple[DepthEdge, ...]:
    """Depth edges between different recurrences by dataflow alone.

    Equal times are assumed where a sequence is read, and as many steps before them as delays make; whether
    that is so is settled when the model runs. What reads a last state does so at every step, or before the
    first one where it starts from it.
    """
    values = body_values(findings.model.graph)
    longest = max((site.num_steps for site in findings.sites), default=1)
    whole, last = _writers(values, cells)
    lags: dict[tuple[str, str], set[int]] = {}
    listed: dict[tuple[str, str], set[tuple[int, int]]] = {}
    for cell in (cell for own in cells for cell in own):
        first, final = _ends(cell.layer, longest)
        every = range(min(first, final), max(first, final) + 1)
        for name, time, lag in _main_reads(cell, first):
            if lag is not None:
                for layer in _read([name], values, whole):
                    lags.setdefault((layer.id, cell.layer.id), set()).add(lag)
            for layer in _read([name], values, last if time is None else whole | last):
                times = every if time is None else range(time, time + 1)
                pairs = {(_ends(layer, longest)[1], time) for time in times if time in every}
                listed.setdefault((layer.id, cell.layer.id), set()).update(pairs)
    order = {cell.layer.id: index for index, cell in enumerate(cell for own in cells for cell in own)}
    edges = [DepthEdge(*ends, lag) for ends, own in lags.items() for lag in sorted(own, key=abs)]
    edges += [
        DepthEdge(*ends, time_pairs=tuple(sorted(pairs)))
        for ends, pairs in listed.items()
        if pairs and ends not in lags
    ]
    return tuple(sorted(edges, key=lambda edge: (order[edge.target], order[edge.source])))


def _main_reads(cell: Cell, first: int) -> Iterator[tuple[str, int | None, int | None]]:
    """What a cell reads of the main graph: when, if not at every step; slices, how many times before."""
    step = cell.layer.time_step
    sequences = {sequence.body: sequence.main for sequence in cell.site.inputs}
    starts = {state.name: state.initial for own in cell.delays for state in own.layer.states}
    for read in cell.reads:
        if read.kind == "slice":
            yield sequences[read.name], None, read.lag * step
        elif read.kind == "capture":
            yield cell.site.captures[read.name], None, None
        elif read.kind == "initial" and (start := starts[read.name]) is not None:
            yield start, first + read.lag * step, None
    for state in cell.layer.states:
        if state.initial:
            yield state.initial, first, None


Writers = dict[ir.Value, list[Layer]]


def _writers(values: Mapping[str, ir.Value], cells: Sequence[Sequence[Cell]]) -> tuple[Writers, Writers]:
    """The layers that sequences show, and those of which values are the last states."""
    whole: Writers = {}
    last: Writers = {}
    for own in filter(None, cells):  # what only counts steps has none
        site = own[0].site
        for sequence in site.outputs:
            shown = states_behind(site, [sequence.body])
            whole[values[sequence.main]] = [c.layer for c in own if shown & {s.name for s in c.layer.states}]
        for state in (state for state in site.states if state.final):
            behind = states_behind(site, [state.after])
            last[values[str(state.final)]] = [
                c.layer for c in own if behind & {s.name for s in c.layer.states}
            ]
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
