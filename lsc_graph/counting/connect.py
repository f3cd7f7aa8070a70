"""Which times of which layers, inputs and outputs are connected: seen in the model as it runs, not assumed.

Dataflow alone says who reads whom, but not when: a sequence may be flipped, shifted, pooled, or only its end
be handed on. One run through the torch view, once it agrees with ONNX Runtime, and one cotangent for each
step settle that (theory section 2). Edges that are the same at every step are kept as lags, so that they
hold for any number of steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor

from lsc_graph.auditing.agreement import Agreement
from lsc_graph.auditing.measure import Sequences
from lsc_graph.jacobians.cell import flat_from
from lsc_graph.jacobians.depth import Glue, Pairs, Port, glue_of, ports_of, time_pairs
from lsc_graph.layers.cells import Cell, CellGraph, DepthEdge, Layer, depth_edges_within
from lsc_graph.layers.gradient_flow import GradientFlow
from lsc_graph.prepare import Prepared, is_streaming
from lsc_graph.recurrence.dataflow import body_values, direct_sources
from lsc_graph.running.sampling import make_samples
from lsc_graph.to_torch.loop import CellModule, SiteModule, Values
from lsc_graph.to_torch.program import reads_of

_RESHAPING = frozenset(["Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Cast"])
INPUT, OUTPUT = "input:", "output:"
"""What the ids of inputs and outputs begin with."""


@dataclass(frozen=True)
class Connected:
    """A cell graph with its depth edges as they were seen, and what was not to be seen."""

    cells: CellGraph
    notes: tuple[str, ...] = ()


def connected_cells(
    prepared: Prepared, *, terminals: bool = False, seed: int = 0, time_axis: int | None = None
) -> Connected:
    """The cell graph of a model, connected as a run shows.

    Args:
        prepared: the model.
        terminals: whether its inputs and outputs are layers as well: one node at each time, if some axis has
            as many elements as there are steps; else an input is one node at time 0, an output one at time
            T-1. Inputs that are not floating-point carry no gradient and are left out.
        seed: of the sample that is run, and of the cotangents.
        time_axis: time in inputs and outputs of which several axes could be it.

    Raises:
        ParityError: the torch view disagrees with ONNX Runtime.
        ConversionError: there is no torch view.
    """
    unused = () if time_axis is None else (f"--time-axis {time_axis}: no input or output has that choice",)
    if prepared.chain is not None:
        edges = _chain_terminals(prepared) if terminals else ()
        return Connected(_with(prepared.cell_graph, edges), unused)
    if is_streaming(prepared):
        edges = _streaming_terminals(prepared) if terminals else ()
        return Connected(_with(prepared.cell_graph, edges), unused)
    within = tuple(edge for own in prepared.cells for edge in depth_edges_within(own))
    with torch.no_grad():
        probe = Probe(prepared, seed, time_axis)
        found = tuple(probe.edges(terminals))
    bare = CellGraph(prepared.cell_graph.layers, within, prepared.cell_graph.num_steps)
    return Connected(_with(bare, found), (*probe.notes, *(() if probe.has_chosen else unused)))


def edges_of_pairs(
    source: str, target: str, pairs: Iterable[tuple[int, int]], num_steps: int
) -> list[DepthEdge]:
    """Edges with a lag where all times are connected at it, and one with what is left.

    A lag beyond half of the steps is not taken for a rule: at a corner a single pair is all there is.
    """
    rest = set(pairs)
    found = []
    for lag, count in sorted(Counter(head - tail for tail, head in rest).items()):
        if count == num_steps - abs(lag) and (2 * abs(lag) < num_steps):
            found.append(DepthEdge(source, target, lag))
            rest = {(tail, head) for tail, head in rest if head - tail != lag}
    if rest:
        found.append(DepthEdge(source, target, time_pairs=tuple(sorted(rest, key=lambda p: (p[1], p[0])))))
    return found


def _with(cells: CellGraph, edges: Sequence[DepthEdge]) -> CellGraph:
    """The cell graph with further depth edges, and as layers the inputs and outputs that they name."""
    names = dict.fromkeys(name for edge in edges for name in (edge.source, edge.target))
    inputs = [_terminal(name, INPUT) for name in names if name.startswith(INPUT)]
    outputs = [_terminal(name, OUTPUT) for name in names if name.startswith(OUTPUT)]
    order = {layer.id: index for index, layer in enumerate((*inputs, *cells.layers, *outputs))}
    every = dict.fromkeys((*cells.depth_edges, *edges))
    ordered = sorted(every, key=lambda edge: (order[edge.target], order[edge.source]))
    return CellGraph((*inputs, *cells.layers, *outputs), tuple(ordered), cells.num_steps)


def _terminal(id_: str, kind: str) -> Layer:
    return Layer(id_, id_.removeprefix(kind), None, (), 0, 0, "input" if kind == INPUT else "output")


def _chain_terminals(prepared: Prepared) -> tuple[DepthEdge, ...]:
    """Which layers gradients reach inputs from, and which layers and inputs they reach from outputs."""
    assert prepared.chain is not None
    graph, flow = prepared.findings.model.graph, GradientFlow(prepared.findings.model.graph)
    floats = {str(value.name): INPUT + str(value.name) for value in graph.inputs if _is_float(value)}
    layer_of = dict(
        zip(prepared.chain.boundaries, (own.id for own in prepared.cell_graph.layers), strict=True)
    )
    stops = {**floats, **layer_of}
    into = [
        DepthEdge(floats[name], layer)
        for boundary, layer in layer_of.items()
        for name in floats
        if name in flow.stops_before(boundary, stops)
    ]
    return (*into, *_chain_outputs(flow, stops))


def _chain_outputs(flow: GradientFlow, stops: Mapping[str, str]) -> Iterator[DepthEdge]:
    for name in flow.outputs:
        found = {name} if name in stops else flow.stops_before(name, stops)
        yield from (DepthEdge(id_, OUTPUT + name) for own, id_ in stops.items() if own in found)


def _is_float(value: object) -> bool:
    dtype = getattr(value, "dtype", None)
    return dtype is None or bool(dtype.is_floating_point())


def _streaming_terminals(prepared: Prepared) -> tuple[DepthEdge, ...]:
    """By the dataflow of the step, which is exact: the body is the whole model."""
    (own,) = prepared.cells
    site = own[0].site
    values = body_values(site.body.graph)
    carried = {carry.after for carry in prepared.findings.carried}
    edges = [
        DepthEdge(INPUT + read.name, cell.layer.id, read.lag)
        for cell in own
        for read in cell.reads
        if read.kind == "slice" and _is_float(values[read.name])
    ]
    after = {values[s.after]: (cell.layer.id, 0) for cell in own for s in cell.layer.states}
    lags = {same: layer for value, layer in after.items() for same in _reshaped_from(value)}
    lags |= {values[s.before]: (cell.layer.id, 1) for cell in own for s in cell.layer.states}
    lags |= {values[s.body]: (INPUT + s.body, 0) for s in site.inputs if _is_float(values[s.body])}
    delays = {values[s.before]: values[s.after] for cell in own[0].delays for s in cell.layer.states}
    for name in (s.body for s in site.outputs if s.main not in carried):
        edges += [DepthEdge(id_, OUTPUT + name, lag) for id_, lag in _sources(values[name], lags, delays)]
    return tuple(dict.fromkeys(edges))


def _sources(
    value: ir.Value, lags: Mapping[ir.Value, tuple[str, int]], delays: Mapping[ir.Value, ir.Value]
) -> Iterator[tuple[str, int]]:
    """The layers and inputs that a value is computed from, by way of delays too, and how long before."""
    pending = [(value, 0)]
    stops = lags.keys() | delays.keys()
    while pending:
        value, lag = pending.pop()
        for source in {value} if value in stops else direct_sources(value, stops):
            if source in delays:
                pending.append((delays[source], lag + 1))
            else:
                yield lags[source][0], lags[source][1] + lag


def _reshaped_from(value: ir.Value) -> Iterator[ir.Value]:
    """The value, and those that it only reshapes: an output may read a state before it is shaped for the
    file.
    """
    seen: ir.Value | None = value
    while seen is not None:
        yield seen
        node = seen.producer()
        seen = node.inputs[0] if node is not None and node.op_type in _RESHAPING else None


class Probe:
    """One sample through the torch view, and the derivatives of what is read by what it is read from."""

    def __init__(self, prepared: Prepared, seed: int, time_axis: int | None = None) -> None:
        self.prepared, self.wanted = prepared, time_axis
        self.num_steps = prepared.cell_graph.num_steps
        self.axes: dict[str, int] = {}
        self.notes: list[str] = []
        self.has_chosen = False
        self.generator = torch.Generator().manual_seed(seed)
        model = Sequences(prepared, "cpu", self.generator)
        carried = [carry.before for carry in prepared.findings.carried]
        (sample,) = make_samples(
            prepared.plan,
            data={},
            fixed=prepared.fixed,
            domains=prepared.domains,
            carried=carried,
            num_steps=None,
            num_samples=1,
            seed=seed,
        )
        self.program, self.run = model.program, model.run(sample)
        self.parameters = model.parameters
        Agreement(model).compare(sample, self.run)
        self.inputs = model.tensors(sample.inputs | sample.initial)
        self.floats = {name: value for name, value in self.inputs.items() if value.is_floating_point()}
        self.owner = {s.name: c.layer.id for own in prepared.cells for c in own for s in c.layer.states}

    def edges(self, terminals: bool) -> Iterator[DepthEdge]:
        """All edges between different recurrences, and those of inputs and outputs."""
        inputs = self.floats if terminals else {}
        for name in inputs:
            self._settle_axis(name)
        for index, own in enumerate(self.prepared.cells):
            glue = self._glue(index, inputs, reads_of(self.prepared.findings.sites[index]))
            for cell in own if glue is not None else ():
                assert glue is not None
                yield from self._edges_into(cell, glue)
        if terminals:
            names = [str(value.name) for value in self.prepared.findings.model.graph.outputs]
            glue = self._glue(len(self.prepared.cells), inputs, names)
            for name in glue.read if glue is not None else ():
                assert glue is not None
                yield from self._edges_out(name, glue)

    def _glue(self, target: int, inputs: Values, wanted: Sequence[str]) -> Glue | None:
        """The derivative of main-graph values with respect to the states below and the inputs."""
        program, run = self.program, self.run
        states: dict[str, Tensor] = {}
        for site, trajectory in zip(program.sites[:target], run.trajectories[:target], strict=True):
            assert isinstance(site, SiteModule)
            states |= {state.name: trajectory.after[state.name] for state in site.layered}
        if not states and not inputs:
            return None

        def read(states: dict[str, Tensor], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            values = program.reads_given_states(target, states, run, self.inputs | inputs)
            return {name: values[name] for name in wanted if values[name].is_floating_point()}

        def joined(of_states: Values, of_inputs: Values) -> dict[str, Tensor]:
            return dict(of_states) | {INPUT + n: self._by_time(n, g) for n, g in of_inputs.items()}

        sites = [site for site in program.sites if isinstance(site, SiteModule)]
        glue = glue_of(sites[min(target, len(sites) - 1)], read, (states, dict(inputs)), joined)
        return glue if glue.read else None

    def input_axis(self, name: str) -> int | None:
        """The axis of an input that is time, if any is."""
        self._settle_axis(name)
        return self._time_axis(name, self.floats[name])

    def _by_time(self, name: str, value: Tensor) -> Tensor:
        """An input [T, rest], or [1, rest] if no axis is time."""
        axis = self._time_axis(name, value)
        return value.reshape(1, -1) if axis is None else flat_from(value.movedim(axis, 0), 1).unsqueeze(-1)

    def _time_axis(self, name: str, value: Tensor) -> int | None:
        return self.axes.get(name, next(iter(self.time_axes(name, value)), None))

    def time_axes(self, name: str, value: Tensor) -> list[int]:
        """The axes of an input or output that may be time: as a recurrence reads it, or by their size."""
        sequences = [s for site in self.prepared.findings.sites for s in (*site.inputs, *site.outputs)]
        known = [s.axis for s in sequences if s.main == name]
        found = known[:1] or [axis for axis, size in enumerate(value.shape) if size == self.num_steps]
        chosen = [axis for axis in found if self.wanted in (axis, axis - value.ndim)]
        self.has_chosen |= bool(chosen)
        return chosen or found

    def _settle_axis(self, name: str) -> None:
        """Of several axes of an input that may be time, take that along which it is read most sparsely.

        Read along the wrong one, every step depends on all entries.
        """
        found = self.time_axes(name, self.floats[name])
        if len(found) > 1:
            read = {}
            for axis in found:
                self.axes[name] = axis
                read[axis] = self._all_read(name)
            self.axes[name] = self._sparsest(f"input {name}", read)

    def _sparsest(self, name: str, found: Mapping[int, Mapping[str, Pairs]]) -> int:
        """The axis that connects the fewest times; where others connect as many, but others, that is said."""
        counts = {axis: sum(map(len, own.values())) for axis, own in found.items()}
        first, *others = [axis for axis, count in counts.items() if count == min(counts.values())]
        if any(found[axis] != found[first] for axis in others):
            either = " or ".join(f"axis {axis}" for axis in (first, *others))
            self.notes.append(
                f"{name}: time may be {either}, which nothing tells apart: axis {first} is assumed; choose "
                "with --time-axis"
            )
        return first

    def _all_read(self, name: str) -> dict[str, Pairs]:
        """For each state that reads an input, the pairs of times that connect them."""
        total: dict[str, Pairs] = {}
        for index, own in enumerate(self.prepared.cells):
            reads = reads_of(self.prepared.findings.sites[index])
            glue = self._glue(index, {name: self.floats[name]}, reads)
            for cell in own if glue is not None else ():
                assert glue is not None
                for number, found in enumerate(self._pairs_into(cell, glue)):
                    total[f"{cell.layer.id}.{number}"] = frozenset(found.get(INPUT + name, ()))
        return total

    def _pairs_into(self, cell: Cell, glue: Glue) -> Iterator[dict[str, Pairs]]:
        module = next(m for m in glue.site.cells if isinstance(m, CellModule) and m.cell is cell)
        first = glue.site.times()[0]
        for port in ports_of(module, glue):
            yield time_pairs(glue, port, self.num_steps, first, self.generator)

    def _edges_into(self, cell: Cell, glue: Glue) -> Iterator[DepthEdge]:
        yield from self._merged(self._pairs_into(cell, glue), cell.layer.id)

    def _edges_out(self, name: str, glue: Glue) -> Iterator[DepthEdge]:
        found = {
            axis: time_pairs(glue, Port("slice", name, name, axis, False), self.num_steps, 0, self.generator)
            for axis in self.time_axes(name, glue.read[name])
        }
        if found:
            pairs = found[self._sparsest(f"output {name}", found)]
        else:
            port, last = Port("capture", name, name, 0, False), self.num_steps - 1
            whole = time_pairs(glue, port, self.num_steps, 0, self.generator)
            pairs = {key: frozenset(p for p in own if p[1] == last) for key, own in whole.items()}
        yield from self._merged([pairs], OUTPUT + name)

    def _merged(self, found: Iterable[dict[str, Pairs]], target: str) -> Iterator[DepthEdge]:
        by_layer: dict[str, set[tuple[int, int]]] = {}
        for by_name in found:
            for name, pairs in by_name.items():
                by_layer.setdefault(self.owner.get(name, name), set()).update(pairs)
        for source, merged in by_layer.items():
            yield from edges_of_pairs(source, target, merged, self.num_steps)
