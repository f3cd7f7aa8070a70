"""The cell graph: layers, and who depends on whom at which time lag.

State variables are the nodes of a graph whose edges are direct dataflow with time lag 0 (within one
step) or 1 (from the step before). Its strongly connected components are the layers: the h and c of an
LSTM fall into one. Everything between two layers (linear, norm, residual) belongs to the depth edge.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import networkx as nx

from lsc_graph.recurrence.dataflow import body_values, direct_sources
from lsc_graph.recurrence.site import RecurrentSite, StateVariable, is_differentiable
from lsc_graph.results import Form


@dataclass(frozen=True)
class Layer:
    """A strongly connected component of state variables over time; `time_step` is -1 when it runs in reverse.

    `time_step` is 0 for a layer without recurrence: a feed-forward block, or an input or output of the
    model where these are part of the graph (`role`). `num_steps` is given where the layer takes fewer steps
    than the cell graph has: its states are then at times 0 to num_steps - 1 only. A delay, such as the input
    of the step before, has steps, but no time edges: nothing of its own old state enters the new one.
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


@dataclass(frozen=True)
class Cell:
    """What one layer's step reads: names of values in the body of its site.

    `below_now` are other layers' states at the same step (lag 0), `below_before` at the step before
    (lag 1); `carried` are the states that are no layers (integers, conditions); `slices` and `captures` are
    the body's other inputs.
    """

    layer: Layer
    site: RecurrentSite
    below_now: tuple[StateVariable, ...]
    below_before: tuple[StateVariable, ...]
    carried: tuple[StateVariable, ...]
    slices: tuple[str, ...]
    captures: tuple[str, ...]


def cells_of_site(
    site: RecurrentSite, first_index: int = 0, num_steps: int | None = None
) -> tuple[Cell, ...]:
    """The layers inside one site's step, in depth order.

    Args:
        site: the recurrence.
        first_index: number of the first layer's id.
        num_steps: of the site, if another recurrence takes more.
    """
    states = tuple(state for state in site.states if is_differentiable(site, state))
    reached = _reached(site, states)
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
    cells: list[Cell] = []
    for node in nx.lexicographical_topological_sort(condensed, key.__getitem__):
        members = tuple(state for state in states if state.name in condensed.nodes[node]["members"])
        cells.append(_cell(site, members, states, reached, f"layer_{first_index + len(cells)}", num_steps))
    return tuple(cells)


def _reached(site: RecurrentSite, states: Sequence[StateVariable]) -> dict[str, set[str]]:
    """For each state: states (before, after) and body inputs that it is directly computed from."""
    values = body_values(site.body.graph)
    stops = {values[state.after] for state in states} | set(site.body.graph.inputs)
    return {
        state.name: {str(value.name) for value in direct_sources(values[state.after], stops)}
        for state in states
    }


def _cell(
    site: RecurrentSite,
    members: tuple[StateVariable, ...],
    states: Sequence[StateVariable],
    reached: dict[str, set[str]],
    layer_id: str,
    num_steps: int | None,
) -> Cell:
    names: set[str] = set().union(*(reached[state.name] for state in members))
    own, known = set(members), set(states)
    others = [state for state in states if state not in own]
    reverse = any(sequence.reverse for sequence in site.inputs)
    layer = Layer(
        id=layer_id,
        name=_layer_name(site, members, len(states)),
        recurrence=site.recurrence,
        states=members,
        state_size=sum(size(state.shape) for state in members),
        time_step=-1 if reverse else 1,
        num_steps=num_steps,
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
    """The depth edges between the layers of one step: lag 0, or one step in the layer's own direction."""
    owner = {state.name: cell.layer.id for cell in cells for state in cell.layer.states}
    edges = []
    for cell in cells:
        now = dict.fromkeys(owner[state.name] for state in cell.below_now)
        before = dict.fromkeys(owner[state.name] for state in cell.below_before)
        edges += [DepthEdge(source, cell.layer.id, 0) for source in now]
        edges += [DepthEdge(source, cell.layer.id, cell.layer.time_step) for source in before]
    return tuple(edges)
