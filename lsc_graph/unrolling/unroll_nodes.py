"""The unrolled graph at the level of ONNX nodes: every node of every step, so that each gate is seen.

Nodes are those that carry a gradient: floating-point values that depend on states or inputs. What lies
between two recurrences is an edge here as well, from the node that writes a sequence to those that read a
slice of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import networkx as nx
import onnx_ir as ir

from lsc_graph.counting.connect import INPUT, OUTPUT
from lsc_graph.errors import LimitExceededError
from lsc_graph.grid.unroll import MAX_GRID_NODES, GridNode
from lsc_graph.layers.cells import Cell, CellGraph, DepthEdge
from lsc_graph.layers.exposure import states_behind
from lsc_graph.prepare import Prepared
from lsc_graph.recurrence.dataflow import body_values, direct_sources, inputs_of
from lsc_graph.recurrence.site import RecurrentSite
from lsc_graph.results import Form


def unroll_nodes(prepared: Prepared, cells: CellGraph) -> nx.DiGraph[GridNode]:
    """The DAG of all ONNX nodes at all steps, with the model's inputs and outputs.

    A node's `layer` is its recurrence and name, such as "recurrence_0/layer_0/Y/GRU.z". Nodes carry `name`
    (their operator), `depth` (longest way within the step) and `kind`: "onnx_node", "input" or "output".
    Edges carry `kind`: "within" one step, "time" from step to step, or "depth" between recurrences, inputs
    and outputs. Where a node reads a value twice there is one edge, with `num_uses` 2.

    Args:
        prepared: the model.
        cells: its cell graph with inputs and outputs (`model_cells`), which sets T.

    Raises:
        LimitExceededError: there would be more than MAX_GRID_NODES nodes.
    """
    sites = prepared.findings.sites
    size = sum(len(site.body.graph) for site in sites) or len(prepared.findings.model.graph)
    if size * cells.num_steps > MAX_GRID_NODES:
        raise LimitExceededError(
            "The unrolled graph would be too large",
            got=f"{size} ONNX nodes x {cells.num_steps} steps",
            expected=f"at most {MAX_GRID_NODES} nodes",
            do="ask for fewer steps",
        )
    builder = _Builder(prepared, cells)
    if not sites:
        builder.add_feed_forward(prepared.findings.model.graph)
    for site, own in zip(sites, prepared.cells, strict=True):
        builder.add_site(site, own)
    builder.add_outputs()
    return builder.finished()


class _Builder:
    def __init__(self, prepared: Prepared, cells: CellGraph) -> None:
        self.prepared, self.cells, self.num_steps = prepared, cells, cells.num_steps
        self.grid: nx.DiGraph[GridNode] = nx.DiGraph()
        self.main = body_values(prepared.findings.model.graph)
        self.writers: dict[ir.Value, tuple[ir.Value, RecurrentSite, frozenset[str]]] = {}
        self.sequences: set[ir.Value] = set()
        self.states: set[GridNode] = set()
        self.edges: dict[tuple[str, str], list[DepthEdge]] = {}
        for edge in cells.depth_edges:
            self.edges.setdefault((edge.source, edge.target), []).append(edge)
        for layer in cells.layers:
            if layer.role != "state":
                kind = {"name": layer.name, "kind": layer.role}
                self.grid.add_nodes_from((GridNode(layer.id, t) for t in range(self.num_steps)), **kind)

    def add_feed_forward(self, graph: ir.Graph) -> None:
        """All nodes at the single step."""
        known = {layer.id for layer in self.cells.layers}
        starts = {value: INPUT + str(value.name) for value in graph.inputs}
        carrying = _carrying(graph, starts)
        for consumer in carrying:
            for value in inputs_of(consumer):
                producer = value.producer()
                if value in starts and starts[value] in known:
                    self._edge(GridNode(starts[value], 0), _at(consumer, "", 0), "depth")
                elif producer in carrying:
                    self._edge(_at(producer, "", 0), _at(consumer, "", 0), "within")
        for value in graph.outputs:
            if (producer := value.producer()) in carrying:
                self._edge(_at(producer, "", 0), GridNode(OUTPUT + str(value.name), 0), "depth")

    def add_site(self, site: RecurrentSite, own: tuple[Cell, ...]) -> None:
        """The step, once for each time, and what it reads."""
        graph, values = site.body.graph, body_values(site.body.graph)
        every = [*own, *own[0].delays]
        after = {
            values[s.before]: (values[s.after], cell.layer.time_step)
            for cell in every
            for s in cell.layer.states
        }
        ports = {values[name] for cell in every for name in (*cell.slices, *cell.captures)}
        carrying = _carrying(graph, after.keys() | ports)
        for consumer in carrying:
            for value in inputs_of(consumer):
                for source, lag, kind in _written_by(value, after):
                    if source not in carrying:
                        continue
                    for time in range(max(lag, 0), min(self.num_steps, self.num_steps + lag)):
                        tail = _at(source, f"{site.id}/", time - lag)
                        self._edge(tail, _at(consumer, f"{site.id}/", time), kind)
        for new in (values[s.after] for cell in own for s in cell.layer.states):
            if (producer := new.producer()) is not None:
                self.states.update(_at(producer, f"{site.id}/", time) for time in range(self.num_steps))
        for inner in ports:
            self._add_port(site, own, str(inner.name), inner)
        self._add_writers(site, own, values)

    def _add_port(self, site: RecurrentSite, own: tuple[Cell, ...], name: str, inner: ir.Value) -> None:
        """Edges from what a body input is computed from to the nodes that read it."""
        readers = [use.node for use in inner.uses()]
        if site.form is Form.STREAMING:
            mains: list[ir.Value] = [self.main[name]] if name in self.main else []
        else:
            named = [s.main for s in site.inputs if s.body == name]
            named += [main for body, main in site.captures.items() if body == name]
            mains = [self.main[main] for main in named if main in self.main]
        for source, layers in self._sources(mains):
            for layer in layers:
                for tail_time, time in self._port_times(layer, own, name):
                    for reader in readers:
                        head = _at(reader, f"{site.id}/", time)
                        self._edge(self._tail(source, layer, tail_time), head, "depth")

    def _sources(self, mains: Iterable[ir.Value]) -> Iterator[tuple[ir.Value, frozenset[str]]]:
        """Writers of sequences, with the layers behind them, and inputs, that values are computed from."""
        stops = {*self.writers, *self.prepared.findings.model.graph.inputs}
        for main in mains:
            for source in {main} & stops or direct_sources(main, stops):
                if source in self.writers:
                    yield source, self.writers[source][2]
                else:
                    yield source, frozenset([INPUT + str(source.name)])

    def _tail(self, source: ir.Value, layer: str, time: int) -> GridNode:
        if source not in self.writers:
            return GridNode(layer, time)
        inner, site, _ = self.writers[source]
        producer = inner.producer()
        assert producer is not None
        return _at(producer, f"{site.id}/", time)

    def _port_times(self, source: str, own: tuple[Cell, ...], name: str) -> list[tuple[int, int]]:
        """When a layer or input enters what the nodes of a step read by that name.

        A cell that reads it, some steps before where delays are between, is connected as it says: where all
        cells agree on when that is, then; else whenever one of them reads it.
        """
        reads = [
            (cell.layer, read.lag * cell.layer.time_step)
            for cell in own
            for read in cell.reads
            if read.kind in ("slice", "capture") and read.name == name
        ]
        lags = [{-time - lag for time in self.cells.times_read(source, layer)} for layer, lag in reads]
        shared = set.intersection(*lags) if lags else set()
        if shared:
            return [pair for lag in sorted(shared) for pair in self._at_lag(lag)]
        now = [self._times(source, layer.id) for layer, lag in reads if lag == 0]
        return list(dict.fromkeys(pair for pairs in now for pair in pairs))

    def _at_lag(self, lag: int) -> Iterator[tuple[int, int]]:
        for time in range(max(lag, 0), min(self.num_steps, self.num_steps + lag)):
            yield time - lag, time

    def _times(self, source: str, target: str) -> Iterator[tuple[int, int]]:
        for edge in self.edges.get((source, target), ()):
            if edge.time_pairs is not None:
                yield from edge.time_pairs
            else:
                yield from self._at_lag(edge.lag)

    def _add_writers(
        self, site: RecurrentSite, own: tuple[Cell, ...], values: Mapping[str, ir.Value]
    ) -> None:
        for sequence in site.outputs:
            shown = states_behind(site, [sequence.body])
            layers = frozenset(c.layer.id for c in own if shown & {s.name for s in c.layer.states})
            if values[sequence.body].producer() is not None and sequence.main in self.main:
                self.writers[self.main[sequence.main]] = values[sequence.body], site, layers
                self.sequences.add(self.main[sequence.main])
        for cell in own:
            for state in cell.layer.states:
                if state.final and values[state.after].producer() is not None:
                    layers = frozenset([cell.layer.id])
                    self.writers[self.main[state.final]] = values[state.after], site, layers

    def add_outputs(self) -> None:
        """Edges to the model's outputs."""
        for value in self.prepared.findings.model.graph.outputs if self.prepared.findings.sites else ():
            name = OUTPUT + str(value.name)
            if value in self.sequences:  # whatever the step reads for it
                for time in range(self.num_steps):
                    self._edge(self._tail(value, "", time), GridNode(name, time), "depth")
                continue
            for source, layers in self._sources([value]):
                for layer in layers:
                    for tail_time, time in self._times(layer, name):
                        self._edge(self._tail(source, layer, tail_time), GridNode(name, time), "depth")

    def _edge(self, tail: GridNode, head: GridNode, kind: str) -> None:
        if self.grid.has_edge(tail, head):
            self.grid.edges[tail, head]["num_uses"] += 1
        else:
            self.grid.add_edge(tail, head, kind=kind, num_uses=1)

    def _leading_on(self) -> set[GridNode]:
        """Inputs, and what leads to an output or to a state of the same or a later step."""
        layers = {layer.id: layer.role for layer in self.cells.layers}
        pending = [node for node in self.grid if layers.get(node.layer) == "output" or node in self.states]
        kept = set(pending)
        while pending:
            fresh = [tail for tail in self.grid.predecessors(pending.pop()) if tail not in kept]
            kept.update(fresh)
            pending += fresh
        return {node for node in kept if self.grid.degree(node)}

    def finished(self) -> nx.DiGraph[GridNode]:
        """The graph with attributes, without nodes that no gradient reaches."""
        self.grid.remove_nodes_from(set(self.grid) - self._leading_on())
        graphs = [site.body.graph for site in self.prepared.findings.sites]
        prefixes = [f"{site.id}/" for site in self.prepared.findings.sites]
        names = {
            _label(node, prefix): node.op_type
            for graph, prefix in zip(
                graphs or [self.prepared.findings.model.graph], prefixes or [""], strict=True
            )
            for node in graph
        }
        depth: dict[GridNode, int] = {}
        for node in nx.topological_sort(self.grid):
            below = self.grid.pred[node].items()
            same = [depth[tail] + 1 for tail, data in below if data["kind"] != "time"]
            depth[node] = max(same, default=0)
            data = self.grid.nodes[node]
            data.setdefault("name", names.get(node.layer, node.layer))
            data.setdefault("kind", "onnx_node")
            data["depth"] = depth[node]
        return self.grid


def _label(node: ir.Node, prefix: str) -> str:
    return prefix + (node.name or f"{node.op_type}:{node.outputs[0].name}")


def _at(node: ir.Node, prefix: str, time: int) -> GridNode:
    return GridNode(_label(node, prefix), time)


def _carrying(graph: ir.Graph, starts: Iterable[ir.Value]) -> dict[ir.Node, None]:
    """Nodes with a floating-point output that depends on any of the values, if only through integers."""
    known, found = set(starts), dict[ir.Node, None]()
    for node in graph:
        if any(value in known for value in inputs_of(node)):
            known.update(node.outputs)
            if any(v.dtype is None or v.dtype.is_floating_point() for v in node.outputs):
                found[node] = None
    return found


def _written_by(
    value: ir.Value, after: Mapping[ir.Value, tuple[ir.Value, int]]
) -> Iterator[tuple[ir.Node, int, str]]:
    """The node that writes a value of the step, how many steps ago, and the kind of edge."""
    lag = 0
    seen: set[ir.Value] = set()
    while value in after and value not in seen:
        seen.add(value)
        value, step = after[value]
        lag += step
    producer = value.producer()
    if producer is not None:
        yield producer, lag, "time" if lag else "within"
