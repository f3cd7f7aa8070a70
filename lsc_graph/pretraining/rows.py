"""Rows of local Jacobians at chosen steps: cotangents of new states, pulled back along every edge.

The identity as cotangents gives the Jacobians themselves; an eigenvector gives what a radius's
derivative needs, at the price of two rows. With autograd enabled the rows are differentiable in the
parameters, through the trajectory as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import vjp, vmap

from lsc_graph.jacobians.cell import MAX_BATCH_BYTES, flat_from, flatten
from lsc_graph.jacobians.delayed import STATES, Rows, state_columns, through_delays
from lsc_graph.jacobians.depth import (
    Connections,
    Glue,
    by_lag,
    glue_below,
    ports_of,
    pull_rows,
    time_pairs,
)
from lsc_graph.layers.cells import Layer
from lsc_graph.to_torch.loop import CellModule, SiteModule, Trajectory, Values
from lsc_graph.to_torch.program import Run, SequenceProgram, StreamingProgram

Program = SequenceProgram | StreamingProgram
Pulled = dict[tuple[str, str], Tensor]
Times = Sequence[int] | Tensor
Wanted = Collection[tuple[str, str]] | None
Sources = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class EdgeRows:
    """Pulled rows of one edge: `rows` is [P, R, n_source], `targets` [P] indexes into the chosen times.

    The edge is in time where `source` and `target` are the same layer. One that starts `lag` steps before its
    target ends at none of so many first steps. Where `sources` are given, the times by the one that they lead
    to, there are as many points for each chosen time as lead to any: those beyond its own do not exist.
    """

    source: str
    target: str
    targets: tuple[int, ...]
    rows: Tensor
    lag: int = 0
    sources: Sources = ()

    def existing(self, times: Sequence[int], steps: range) -> EdgeRows:
        """The points that exist at chosen times, of a layer that takes such steps."""
        if self.sources:
            width = len(self.targets) // len(times)
            counts = [len(self.sources[time]) for time in times]
            return self.at([width * at + number for at, own in enumerate(counts) for number in range(own)])
        first = set(steps[: self.lag])
        if first.isdisjoint(times):
            return self
        return self.at([position for position, time in enumerate(times) if time not in first])

    def at(self, positions: Sequence[int]) -> EdgeRows:
        """Some of the points."""
        targets = tuple(self.targets[position] for position in positions)
        return replace(self, targets=targets, rows=_chosen(self.rows, positions))


def _chosen(rows: Tensor, positions: Sequence[int]) -> Tensor:
    """Some of the points, without a copy where they are a stretch."""
    start = positions[0] if positions else 0
    is_stretch = list(positions) == list(range(start, start + len(positions)))
    return rows[start : start + len(positions)] if is_stretch else rows[list(positions)]


class RowPuller:
    """Pulls rows through one program; which times the glue connects is found once.

    Args:
        program: the model.
        generator: randomness for finding what the glue connects.
    """

    def __init__(self, program: Program, generator: torch.Generator) -> None:
        self.program, self._generator = program, generator
        self._connections: dict[str, Connections] = {}
        self._sources: dict[tuple[str, str], Sources] = {}

    def learn(self, run: Run, inputs: Values) -> None:
        """Find what the glue connects, on any run."""
        lower: list[Layer] = []
        for index, site in enumerate(self.program.sites):
            assert isinstance(site, SiteModule)
            glue = self._glue(index, run, inputs)
            for module in site.cells:
                assert isinstance(module, CellModule)
                ports = ports_of(module, glue) if glue is not None else ()
                found: Connections = {}
                for port in ports:
                    assert glue is not None
                    first = site.times()[0]
                    found[port] = time_pairs(glue, port, site.site.num_steps, first, self._generator)
                layer, connected = module.cell.layer, {p: n for p, n in found.items() if n}
                self._connections[layer.id] = connected
                for other in _connected_to(lower, connected):
                    self._sources[other.id, layer.id] = _sources_of(connected, other, site.site.num_steps)
            lower += [module.cell.layer for module in site.cells if isinstance(module, CellModule)]

    def _glue(self, index: int, run: Run, inputs: Values) -> Glue | None:
        if not isinstance(self.program, SequenceProgram):
            return None
        return glue_below(self.program, index, run, inputs)

    @property
    def most_sources(self) -> int:
        """How many times of one layer lead to one of another at most."""
        return max((len(own) for sources in self._sources.values() for own in sources), default=1)

    @property
    def is_mixed(self) -> bool:
        """Whether some glue has to be pulled back from one time after another."""
        return any(by_lag(connected) is None for connected in self._connections.values())

    def pull(
        self,
        run: Run,
        inputs: Values,
        times: Times,
        cotangents: Callable[[Layer], Tensor],
        wanted: Wanted = None,
    ) -> list[EdgeRows]:
        """The rows of every edge that ends at one of `times`.

        Args:
            run: what the sample did.
            inputs: the sample's inputs, as they were given to the program.
            times: chosen steps. A tensor is for `vmap` over samples with steps of their own: edges then have
                points, too, that do not exist at all steps (see `EdgeRows.existing`).
            cotangents: per layer, [len(times), R, n] of its new state.
            wanted: the edges to pull along; all of them where it is None.
        """
        found: list[EdgeRows] = []
        lower: list[Layer] = []
        for index, (site, trajectory) in enumerate(zip(self.program.sites, run.trajectories, strict=True)):
            assert isinstance(site, SiteModule)
            glue = self._glue(index, run, inputs)
            layers = [module.cell.layer for module in site.cells if isinstance(module, CellModule)]
            for module in site.cells:
                assert isinstance(module, CellModule)
                layer = module.cell.layer
                beside, below = _sources(layer, layers, wanted), _sources(layer, lower, wanted)
                connected = self._connections[layer.id] if below else {}
                if not beside and not connected:
                    continue
                names = {state.name for other in beside for state in other.states}
                if connected or beside != [layer]:
                    names |= {delay.layer.name for delay in module.cell.delays}
                ports = {port.body for port in connected}
                pulled = _pull_cell(module, trajectory, times, cotangents(layer), names, ports)
                rows = through_delays(site, trajectory, pulled, times, ports)
                found += _inside(rows, layer, beside, times, site)
                if glue is not None and connected:
                    found += self._through_glue(rows, layer, glue, below, times)
            lower += layers
        return found

    def _through_glue(
        self, rows: Rows, layer: Layer, glue: Glue, lower: Sequence[Layer], times: Times
    ) -> list[EdgeRows]:
        connected = self._connections[layer.id]
        lags = by_lag(connected)
        if lags is None:
            below = _connected_to(lower, connected)
            sources = {other.id: self._sources[other.id, layer.id] for other in below}
            return _pull_each(rows, layer, glue, connected, below, sources, times)
        return [
            edge
            for lag, own in lags.items()
            for edge in _pull_together(rows, layer, glue, own, _connected_to(lower, own), times, lag)
        ]


def _sources_of(connected: Connections, other: Layer, num_steps: int) -> Sources:
    """The times of a layer that are connected to each time, ascending."""
    names = {state.name for state in other.states}
    found: list[set[int]] = [set() for _ in range(num_steps)]
    for by_state in connected.values():
        for name, pairs in by_state.items():
            for source, target in pairs if name in names else ():
                found[target].add(source)
    return tuple(tuple(sorted(own)) for own in found)


def _sources(layer: Layer, others: Sequence[Layer], wanted: Wanted) -> list[Layer]:
    return [other for other in others if wanted is None or (other.id, layer.id) in wanted]


def _pull_cell(
    module: CellModule,
    trajectory: Trajectory,
    times: Times,
    cotangents: Tensor,
    states: set[str],
    through: set[str],
) -> Pulled:
    """Cotangents of a cell's new state pulled back to what it reads: [P, R, *shape] by kind and name.

    What it reads of `states` of its site, and what comes `through` the glue.
    """
    index = torch.as_tensor(times)
    pools = {
        "before": trajectory.before,
        "after": trajectory.after,
        "slice": trajectory.slices,
        "capture": trajectory.captures,
    }
    points, which = [], []
    for position, (kind, name) in enumerate(module.reads):
        value = pools[kind][name]
        is_constant = kind == "capture"
        points.append(
            value.expand(len(times), *value.shape) if is_constant else value[index.to(value.device)]
        )
        is_state = kind in ("before", "after") and name in states
        if value.is_floating_point() and (is_state or name in through):
            which.append(position)

    if not which:
        return {}

    def pulled(rows: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        def function(*chosen: Tensor) -> Tensor:
            every = list(values)
            for position, value in zip(which, chosen, strict=True):
                every[position] = value
            return flatten(module(*every))

        _, pullback, *_ = vjp(function, *(values[position] for position in which))
        result: tuple[Tensor, ...] = vmap(pullback)(rows)
        return result

    rows = vmap(pulled, chunk_size=_chunk(cotangents))(cotangents.to(points[0]), *points)
    return {module.reads[position]: row for position, row in zip(which, rows, strict=True)}


def _chunk(cotangents: Tensor) -> int:
    """How many points fit in memory at once."""
    bytes_per_point = 64 * cotangents[0].numel() * cotangents.element_size()
    return max(1, MAX_BATCH_BYTES // max(1, bytes_per_point))


def _inside(
    rows: Rows, layer: Layer, sources: Sequence[Layer], times: Times, site: SiteModule
) -> list[EdgeRows]:
    """Edges within one site: in time, and between the layers of one step, some steps back."""
    found = []
    for other in sources:
        names = {state.name for state in other.states}
        for lag in sorted({read.steps_back for read in rows if read.kind in STATES and read.name in names}):
            which = _reaching(times, lag, site)
            if which:
                own = _chosen(state_columns(rows, lag, other.states), which)
                found.append(EdgeRows(other.id, layer.id, which, own, lag))
    return found


def _reaching(times: Times, lag: int, site: SiteModule) -> tuple[int, ...]:
    """Positions of the times that have a step so many before them; of times that differ, all positions."""
    first = set(site.times()[:lag])
    if isinstance(times, Tensor):
        return tuple(range(len(times)))
    return tuple(position for position, time in enumerate(times) if time not in first)


def _connected_to(lower: Sequence[Layer], connected: Connections) -> list[Layer]:
    names = {name for by_state in connected.values() for name in by_state}
    return [other for other in lower if any(state.name in names for state in other.states)]


def _pull_together(
    rows: Rows,
    layer: Layer,
    glue: Glue,
    connected: Connections,
    connected_layers: Sequence[Layer],
    times: Times,
    lag: int,
) -> list[EdgeRows]:
    """All chosen times in one pull: right where no two of them see the same time below."""
    cotangents: dict[str, Tensor] = {}
    index, num_steps = torch.as_tensor(times), glue.site.site.num_steps
    for port in connected:
        own = port.of(rows)
        full = own.new_zeros(num_steps, *own.shape[1:]).index_put((index.to(own.device),), own)
        _add(cotangents, port.main, port.place(full, None, glue.read[port.main]))
    pulled = pull_rows(glue, cotangents)
    below = index - lag
    sources: Sources = ()
    if isinstance(times, Tensor):
        which = tuple(range(len(times)))
        below = below.clamp(0, num_steps - 1)
        sources = _lagged(lag, num_steps) if lag else ()
    else:
        which = tuple(k for k, time in enumerate(times) if 0 <= time - lag < num_steps)
        below = below[list(which)]
    found = []
    for other in connected_layers if which else ():
        # Chosen steps before anything is copied: the others hold zeros.
        whole = torch.cat([flat_from(pulled[state.name][:, below], 2) for state in other.states], 2)
        found.append(EdgeRows(other.id, layer.id, which, whole.movedim(1, 0), sources=sources))
    return found


def _lagged(lag: int, num_steps: int) -> Sources:
    return tuple((time - lag,) if 0 <= time - lag < num_steps else () for time in range(num_steps))


def _pull_each(
    given: Rows,
    layer: Layer,
    glue: Glue,
    connected: Connections,
    lower: Sequence[Layer],
    sources: Mapping[str, Sources],
    times: Times,
) -> list[EdgeRows]:
    """Every chosen time in a pull of its own: several of them may see the same time below."""
    index, first = torch.as_tensor(times), glue.site.times()[0]
    ports = {port: port.of(given) for port in connected}
    tables = {name: _table(own) for name, own in sources.items()}
    parts: dict[str, list[Tensor]] = {other.id: [] for other in lower}
    size = _times_at_once(next(iter(ports.values())).shape[1], glue, lower)
    for start in range(0, len(index), size):
        now = slice(start, start + size)
        cotangents: dict[str, Tensor] = {}
        for port, rows in ports.items():
            placed = port.place_each(rows[now], index[now], first, glue.read[port.main])
            _add(cotangents, port.main, placed)
        pulled = pull_rows(glue, cotangents)
        for other in lower:
            whole = torch.cat([flat_from(pulled[state.name], 2) for state in other.states], 2)
            whole = whole.reshape(len(index[now]), -1, *whole.shape[1:])
            below = tables[other.id][index[now]].to(whole.device)
            every = torch.arange(len(below), device=whole.device)[:, None]
            parts[other.id].append(whole[every, :, below].flatten(0, 1))
    found = []
    for other in lower:
        targets = tuple(torch.arange(len(index)).repeat_interleave(tables[other.id].shape[1]).tolist())
        own = EdgeRows(other.id, layer.id, targets, torch.cat(parts[other.id]), sources=sources[other.id])
        if not isinstance(times, Tensor):
            own = replace(own.existing(times, glue.site.times()), sources=())
        if own.targets:
            found.append(own)
    return found


def _table(sources: Sources) -> Tensor:
    """[T, K], where fewer than K times lead to one the last of them again."""
    width = max(map(len, sources))
    return torch.tensor([[*own, *(own[-1:] or (0,)) * (width - len(own))] for own in sources])


def _times_at_once(num_rows: int, glue: Glue, lower: Sequence[Layer]) -> int:
    """How many times' cotangents of all states below fit in memory."""
    size = sum(other.state_size for other in lower) * glue.site.site.num_steps * num_rows * 4
    return max(1, MAX_BATCH_BYTES // max(1, size))


def _add(cotangents: dict[str, Tensor], name: str, placed: Tensor) -> None:
    cotangents[name] = cotangents[name] + placed if name in cotangents else placed


def detached(run: Run) -> Run:
    """The same run without a graph."""
    return replace(
        run,
        outputs=_detach(run.outputs),
        trajectories=tuple(
            replace(
                t,
                before=_detach(t.before),
                after=_detach(t.after),
                slices=_detach(t.slices),
                captures=_detach(t.captures),
                outputs=_detach(t.outputs),
                final=_detach(t.final),
                cells={name: [value.detach() for value in values] for name, values in t.cells.items()},
            )
            for t in run.trajectories
        ),
        values=None if run.values is None else _detach(run.values),
        boundaries=tuple(value.detach() for value in run.boundaries),
    )


def _detach(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in values.items()}
