"""The unrolled graph at the level of ONNX nodes: every node of every step, so that each gate is seen.

Nodes are those that carry a gradient: floating-point values that depend on states or inputs. What lies
before, between and behind recurrences is there at every time, too, as if it were written in the steps.
"""

from __future__ import annotations

from collections.abc import Iterable

import networkx as nx
import onnx_ir as ir

from lsc_graph.counting.connect import INPUT, OUTPUT
from lsc_graph.errors import LimitExceededError
from lsc_graph.grid.unroll import MAX_GRID_NODES, GridNode
from lsc_graph.layers.cells import Cell, CellGraph
from lsc_graph.prepare import Prepared, is_streaming
from lsc_graph.recurrence.dataflow import body_values, inputs_of
from lsc_graph.recurrence.site import RecurrentSite
from lsc_graph.results import Form
from lsc_graph.unrolling.between import READ, WRITTEN, Between, label, nodes_between, port


def unroll_nodes(
    prepared: Prepared, cells: CellGraph, *, time_axis: int | None = None
) -> nx.DiGraph[GridNode]:
    """The DAG of all ONNX nodes at all steps, with the model's inputs and outputs.

    A node's `layer` is its recurrence and name, such as "recurrence_0/layer_0/Y/GRU.z". Nodes carry `name`
    (their operator), `depth` (longest way within the step) and `kind`: "onnx_node", "input" or "output".
    Edges carry `kind`: "within" one step, "time" from step to step, or "depth" between recurrences, inputs
    and outputs. Where a node reads a value twice there is one edge, with `num_uses` 2.

    Args:
        prepared: the model.
        cells: its cell graph with inputs and outputs (`model_cells`), which sets T.
        time_axis: time in inputs and outputs of which several axes could be it.

    Raises:
        LimitExceededError: there would be more than MAX_GRID_NODES nodes.
        UsageError, ConversionError: as `nodes_between`.
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
    if sites and not is_streaming(prepared):
        builder.add_between(nodes_between(prepared, cells.num_steps, time_axis))
    return builder.finished()


class _Builder:
    def __init__(self, prepared: Prepared, cells: CellGraph) -> None:
        self.prepared, self.cells, self.num_steps = prepared, cells, cells.num_steps
        self.grid: nx.DiGraph[GridNode] = nx.DiGraph()
        self.states: set[GridNode] = set()
        self.labels: dict[str, str] = {}
        for layer in cells.layers:
            if layer.role != "state":
                kind = {"name": layer.name, "kind": layer.role}
                self.grid.add_nodes_from((GridNode(layer.id, t) for t in range(self.num_steps)), **kind)

    def add_feed_forward(self, graph: ir.Graph) -> None:
        """All nodes at the single step."""
        known = {layer.id for layer in self.cells.layers}
        starts = {value: INPUT + str(value.name) for value in graph.inputs}
        carrying = _carrying(graph, starts)
        self.labels |= {label(node): node.op_type for node in carrying}
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
        """The step, once for each time: what it reads within it, of steps before, and of the main graph."""
        step = _Step(site, own, self.num_steps)
        self.labels |= {label(node, step.prefix): node.op_type for node in site.body.graph}
        for consumer in step.carrying:
            head = label(consumer, step.prefix)
            for value in inputs_of(consumer):
                self._read(step, value, head)
        for state in (state for cell in own for state in cell.layer.states):
            if (producer := step.values[state.after].producer()) is not None:
                self.states.update(_at(producer, step.prefix, time) for time in range(self.num_steps))
        if site.form is Form.STREAMING:
            self._add_ends(step)
            return
        for sequence in site.outputs:
            self._read(step, step.values[sequence.body], WRITTEN + sequence.main)
        for state in (state for state in site.states if state.final):
            self._read(step, step.values[state.after], f"{WRITTEN}{state.final}", times=[step.times[-1]])

    def _read(self, step: _Step, value: ir.Value, head: str, times: Iterable[int] | None = None) -> None:
        """Edges from wherever a value of the step comes from."""
        for time in step.times if times is None else times:
            if (found := step.source(value, time)) is not None:
                tail, kind = found
                self._edge(tail, GridNode(head, time), kind)

    def _add_ends(self, step: _Step) -> None:
        """The inputs and outputs of a model that is one step."""
        roles = {layer.id for layer in self.cells.layers if layer.role != "state"}
        for sequence in step.site.inputs:
            for time in step.times if INPUT + sequence.body in roles else ():
                self._edge(GridNode(INPUT + sequence.body, time), step.port(sequence.body, time), "depth")
        for sequence in step.site.outputs:
            if OUTPUT + sequence.body in roles:
                self._read(step, step.values[sequence.body], OUTPUT + sequence.body)

    def add_between(self, between: Between) -> None:
        """What lies before, between and behind the recurrences, and the model's inputs and outputs."""
        for tail, head in between.edges:
            self._edge(tail, head, "depth")
        self.labels |= {name: node.op_type for name, node in between.labels.items()}

    def _join_ports(self) -> None:
        """Ports are no nodes: what leads to one leads to those that read there."""
        for node in [node for node in self.grid if node.layer.startswith((READ, WRITTEN))]:
            for tail in self.grid.pred[node]:
                for head, data in self.grid.succ[node].items():
                    self._edge(tail, head, "depth", data["num_uses"])
            self.grid.remove_node(node)

    def _edge(self, tail: GridNode, head: GridNode, kind: str, num_uses: int = 1) -> None:
        if self.grid.has_edge(tail, head):
            self.grid.edges[tail, head]["num_uses"] += num_uses
        else:
            self.grid.add_edge(tail, head, kind=kind, num_uses=num_uses)

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
        self._join_ports()
        self.grid.remove_nodes_from(set(self.grid) - self._leading_on())
        depth: dict[GridNode, int] = {}
        for node in nx.topological_sort(self.grid):
            below = self.grid.pred[node].items()
            same = [depth[tail] + 1 for tail, data in below if data["kind"] != "time"]
            depth[node] = max(same, default=0)
            data = self.grid.nodes[node]
            data.setdefault("name", self.labels.get(node.layer, node.layer))
            data.setdefault("kind", "onnx_node")
            data["depth"] = depth[node]
        return self.grid


class _Step:
    """One step of a recurrence at any time: where each of its values comes from."""

    def __init__(self, site: RecurrentSite, own: tuple[Cell, ...], num_steps: int) -> None:
        self.site, self.prefix = site, f"{site.id}/"
        self.values = body_values(site.body.graph)
        every = [*own, *(own[0].delays if own else ())]
        self.states = {self.values[s.before]: s for cell in every for s in cell.layer.states}
        self.names = {sequence.body for sequence in site.inputs} | set(site.captures)
        steps = range(num_steps)
        self.times = steps[::-1] if site.is_reverse else steps
        ports = {self.values[name] for cell in every for name in (*cell.slices, *cell.captures)}
        self.carrying = _carrying(site.body.graph, self.states.keys() | ports)

    def port(self, name: str, time: int) -> GridNode:
        """Where a value of the main graph enters: a slice at its time, anything else at 0."""
        return GridNode(port(self.site, name), 0 if name in self.site.captures else time)

    def source(self, value: ir.Value, time: int) -> tuple[GridNode, str] | None:
        """The node or port that a value is written at, and the kind of edge from there."""
        now = time
        while value in self.states:
            state = self.states[value]
            if now == self.times[0]:
                return (GridNode(port(self.site, state.before), 0), "depth") if state.initial else None
            now -= self.times.step
            value = self.values[state.after]
        if value.name in self.names:
            return self.port(str(value.name), now), "depth"
        producer = value.producer()
        if producer not in self.carrying:
            return None
        return _at(producer, self.prefix, now), "within" if now == time else "time"


def _at(node: ir.Node, prefix: str, time: int) -> GridNode:
    return GridNode(label(node, prefix), time)


def _carrying(graph: ir.Graph, starts: Iterable[ir.Value]) -> dict[ir.Node, None]:
    """Nodes with a floating-point output that depends on any of the values, if only through integers."""
    known, found = set(starts), dict[ir.Node, None]()
    for node in graph:
        if any(value in known for value in inputs_of(node)):
            known.update(node.outputs)
            if any(v.dtype is None or v.dtype.is_floating_point() for v in node.outputs):
                found[node] = None
    return found
