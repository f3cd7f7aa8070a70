"""Rows of local Jacobians at chosen steps: cotangents of new states, pulled back along every edge.

The identity as cotangents gives the Jacobians themselves; an eigenvector gives what a radius's
derivative needs, at the price of two rows. With autograd enabled the rows are differentiable in the
parameters, through the trajectory as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.func import vjp, vmap

from lsc_graph.jacobians.cell import MAX_BATCH_BYTES, flatten
from lsc_graph.jacobians.delayed import STATES, Rows, state_columns, through_delays
from lsc_graph.jacobians.depth import (
    Connections,
    Glue,
    by_lag,
    glue_below,
    ports_of,
    time_pairs,
)
from lsc_graph.layers.cells import Layer
from lsc_graph.pretraining.edge_rows import EdgeRows, Sources, Times, chosen
from lsc_graph.pretraining.glue_rows import connected_to, pull_each, pull_together, sources_of
from lsc_graph.to_torch.loop import CellModule, SiteModule, Trajectory, Values
from lsc_graph.to_torch.program import Run, SequenceProgram, StreamingProgram

Program = SequenceProgram | StreamingProgram
Pulled = dict[tuple[str, str], Tensor]
Wanted = Collection[tuple[str, str]] | None


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
                for other in connected_to(lower, connected):
                    self._sources[other.id, layer.id] = sources_of(connected, other, site.site.num_steps)
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
            below = connected_to(lower, connected)
            sources = {other.id: self._sources[other.id, layer.id] for other in below}
            return pull_each(rows, layer, glue, connected, below, sources, times)
        return [
            edge
            for lag, own in lags.items()
            for edge in pull_together(rows, layer, glue, own, connected_to(lower, own), times, lag)
        ]


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
                own = chosen(state_columns(rows, lag, other.states), which)
                found.append(EdgeRows(other.id, layer.id, which, own, lag))
    return found


def _reaching(times: Times, lag: int, site: SiteModule) -> tuple[int, ...]:
    """Positions of the times that have a step so many before them; of times that differ, all positions."""
    first = set(site.times()[:lag])
    if isinstance(times, Tensor):
        return tuple(range(len(times)))
    return tuple(position for position, time in enumerate(times) if time not in first)


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
