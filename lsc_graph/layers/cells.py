"""The cell graph: layers, and who depends on whom at which time lag.

State variables are the nodes of a graph whose edges are direct dataflow with time lag 0 (within one
step) or 1 (from the step before). Its strongly connected components are the layers: the h and c of an
LSTM fall into one. Everything between two layers (linear, norm, residual) belongs to the depth edge; so
does a state that only delays what it carries: it is no node, but a step more for the edge that leads through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import networkx as nx

from lsc_graph.recurrence.dataflow import body_values, direct_sources
from lsc_graph.recurrence.delays import delays_of
from lsc_graph.recurrence.site import RecurrentSite, StateVariable, is_differentiable
from lsc_graph.results import Form


@dataclass(frozen=True)
class Layer:
    """A strongly connected component of state variables over time; `time_step` is -1 when it runs in reverse.

    `time_step` is 0 for a layer without recurrence: a feed-forward block, or an input or output of the
    model where these are part of the graph (`role`). `num_steps` is given where the layer takes fewer steps
    than the cell graph has: its states are then at times 0 to num_steps - 1 only. A delay, such as the input
    of the step before, has steps, but no time edges: nothing of its own old state enters the new one. Delays
    are layers only where a recurrence has nothing else.
    """

    id: str
    name: str
    recurrence: str | None
    states: tuple[StateVariable, ...]
    state_size: int
    time_step: int
    role: Literal["state", "input", "output"] = "state"
    num_steps: int | None = None
    is_delay: bool = False

    @property
    def has_time_edges(self) -> bool:
        """Whether its states are computed from those of the step before."""
        return self.time_step != 0 and not self.is_delay


@dataclass(frozen=True)
class DepthEdge:
    """s[t_source, source] -> s[t_target, target].

    `time_pairs` None means equal times shifted by `lag`: t_source = t_target - lag.
    Otherwise it lists every (t_source, t_target) that is connected.
    """

    source: str
    target: str
    lag: int = 0
    time_pairs: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class CellGraph:
    """Layers in depth order. One that `has_time_edges` has s[t - time_step] -> s[t]."""

    layers: tuple[Layer, ...]
    depth_edges: tuple[DepthEdge, ...]
    num_steps: int

    @property
    def has_one_length(self) -> bool:
        """Whether all layers take the same number of steps."""
        return all(layer.num_steps in (None, self.num_steps) for layer in self.layers)

    def steps_of(self, layer: Layer) -> int:
        """How many steps a layer takes."""
        return self.num_steps if layer.num_steps is None else layer.num_steps

    def times_read(self, source: str, target: Layer) -> tuple[int, ...]:
        """At which times before (negative) or behind its own a layer reads another one; () for no rule."""
        edges = [edge for edge in self.depth_edges if (edge.source, edge.target) == (source, target.id)]
        lags = Counter(u - t for edge in edges for t, u in edge.time_pairs or ())
        lower = next(layer for layer in self.layers if layer.id == source)
        length = min(self.steps_of(lower), self.steps_of(target))
        if any(count < length - abs(lag) for lag, count in lags.items()):
            return ()
        found = {*lags, *(edge.lag for edge in edges if edge.time_pairs is None)}
        return tuple(-lag for lag in sorted(found, key=lambda lag: (abs(lag), -lag)))


class Read(NamedTuple):
    """A value that a step reads, by its name in the body: `lag` steps back, which is none but through delays.

    Its kind is "before", "after", "slice", "capture", or "initial": the first state of a delay, which is read
    `lag` steps behind the first one.
    """

    kind: str
    name: str
    lag: int = 0

    @property
    def steps_back(self) -> int:
        """How many steps before its reader a state was written."""
        return self.lag + (self.kind == "before")


@dataclass(frozen=True)
class Cell:
    """What one layer's step reads: names of values in the body of its site.

    `below_now` are other layers' states at the same step (lag 0), `below_before` at the step before
    (lag 1); `carried` are the states that are no layers (integers, conditions, delays); `slices` and
    `captures` are the body's other inputs. `delays` are those of the site, each as a cell that computes it.
    """

    layer: Layer
    site: RecurrentSite
    below_now: tuple[StateVariable, ...]
    below_before: tuple[StateVariable, ...]
    carried: tuple[StateVariable, ...]
    slices: tuple[str, ...]
    captures: tuple[str, ...]
    delays: tuple[Cell, ...] = ()

    @property
    def reads(self) -> tuple[Read, ...]:
        """What is read other than the own states, with what delays carry in place of these."""
        delays = {cell.layer.name: cell for cell in self.delays}
        found: dict[Read, None] = {}
        pending = [(self, 0)]
        while pending:
            cell, lag = pending.pop()
            found |= dict.fromkeys(Read("after", state.name, lag) for state in cell.below_now)
            found |= dict.fromkeys(Read("before", state.name, lag) for state in cell.below_before)
            found |= dict.fromkeys(Read("slice", name, lag) for name in cell.slices)
            found |= dict.fromkeys(Read("capture", name) for name in cell.captures)
            for name in (state.name for state in cell.carried if state.name in delays):
                found[Read("initial", name, lag)] = None
                pending.append((delays[name], lag + 1))
        return tuple(found)


def cells_of_site(
    site: RecurrentSite, first_index: int = 0, num_steps: int | None = None
) -> tuple[Cell, ...]:
    """The layers inside one site's step, in depth order.

    Args:
        site: the recurrence.
        first_index: number of the first layer's id.
        num_steps: of the site, if another recurrence takes more.
    """
    delays = delays_of(site)
    states = tuple(s for s in site.states if is_differentiable(site, s) and s not in delays)
    reached = _reached(site, states, delays)
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(state.name for state in states)
    for target in states:
        names = reached[target.name]
        graph.add_edges_from(
            (source.name, target.name) for source in states if {source.before, source.after} & names
        )
    order = {state.name: position for position, state in enumerate(states)}
    condensed = nx.condensation(graph)
    key = {node: min(order[name] for name in condensed.nodes[node]["members"]) for node in condensed}
    builder = _Builder(site, states, reached, num_steps)
    delaying = tuple(builder.cell((delay,), delay.name, delay.name) for delay in delays)
    cells: list[Cell] = []
    for node in nx.lexicographical_topological_sort(condensed, key.__getitem__):
        members = tuple(state for state in states if state.name in condensed.nodes[node]["members"])
        name = _layer_name(site, members, len(states))
        cells.append(builder.cell(members, f"layer_{first_index + len(cells)}", name, delaying))
    return tuple(cells)


def _reached(
    site: RecurrentSite, states: Sequence[StateVariable], delays: Sequence[StateVariable]
) -> dict[str, set[str]]:
    """For each state: states (before, after) and body inputs that it is directly computed from."""
    values = body_values(site.body.graph)
    stops = {values[state.after] for state in states} | set(site.body.graph.inputs)
    found = {state.name: direct_sources(values[state.after], stops) for state in states}
    for delay in delays:
        value = values[delay.after]
        found[delay.name] = {value} if value in stops else direct_sources(value, stops)
    return {name: {str(value.name) for value in sources} for name, sources in found.items()}


@dataclass(frozen=True)
class _Builder:
    """Makes the cells of a site, of which `states` are layers."""

    site: RecurrentSite
    states: Sequence[StateVariable]
    reached: dict[str, set[str]]
    num_steps: int | None

    def cell(
        self, members: tuple[StateVariable, ...], layer_id: str, name: str, delays: tuple[Cell, ...] = ()
    ) -> Cell:
        """The cell that computes some states."""
        site, names = self.site, set[str]().union(*(self.reached[state.name] for state in members))
        own, known = set(members), {*self.states, *members}
        others = [state for state in self.states if state not in own]
        layer = Layer(
            id=layer_id,
            name=name,
            recurrence=site.recurrence,
            states=members,
            state_size=sum(size(state.shape) for state in members),
            time_step=-1 if site.is_reverse else 1,
            num_steps=self.num_steps,
            is_delay=not any(state.before in names for state in members),
        )
        return Cell(
            layer=layer,
            site=site,
            below_now=tuple(state for state in others if state.after in names),
            below_before=tuple(state for state in others if state.before in names),
            carried=tuple(s for s in site.states if s not in known and s.before in names),
            slices=tuple(s.body for s in site.inputs if s.body in names),
            captures=tuple(name for name in site.captures if name in names),
            delays=delays,
        )


def _layer_name(site: RecurrentSite, members: Sequence[StateVariable], num_states: int) -> str:
    if len(members) == num_states and site.form is not Form.STREAMING:
        return site.id
    return ", ".join(state.name for state in members)


def size(shape: Iterable[int]) -> int:
    """The number of elements of a shape."""
    total = 1
    for dim in shape:
        total *= dim
    return total


def depth_edges_within(cells: Sequence[Cell]) -> tuple[DepthEdge, ...]:
    """The depth edges between the layers of one step: lags are counted in the layer's own direction."""
    owner = {state.name: cell.layer.id for cell in cells for state in cell.layer.states}
    edges = []
    for cell in cells:
        found = dict.fromkeys(
            (read.steps_back, owner[read.name])
            for read in cell.reads
            if read.kind in ("before", "after") and read.name in owner
        )
        lags = sorted(found, key=lambda pair: pair[0])
        edges += [DepthEdge(source, cell.layer.id, lag * cell.layer.time_step) for lag, source in lags]
    return tuple(edges)
