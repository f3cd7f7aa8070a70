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
from lsc_graph.jacobians.depth import (
    Connections,
    Glue,
    glue_below,
    ports_of,
    pull_rows,
    source_times,
    time_pairs,
)
from lsc_graph.layers.cells import Layer
from lsc_graph.to_torch.loop import CellModule, SiteModule, Trajectory, Values
from lsc_graph.to_torch.program import Run, SequenceProgram, StreamingProgram

Program = SequenceProgram | StreamingProgram
Reads = dict[tuple[str, str], Tensor]
Times = Sequence[int] | Tensor
Wanted = Collection[tuple[str, str]] | None


@dataclass(frozen=True)
class EdgeRows:
    """Pulled rows of one edge: `rows` is [P, R, n_source], `targets` [P] indexes into the chosen times.

    The edge is in time where `source` and `target` are the same layer. A lagged one ends at no first step.
    """

    source: str
    target: str
    targets: tuple[int, ...]
    rows: Tensor
    is_lagged: bool = False

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

    def learn(self, run: Run, inputs: Values) -> None:
        """Find what the glue connects, on any run."""
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
                self._connections[module.cell.layer.id] = {p: n for p, n in found.items() if n}

    def _glue(self, index: int, run: Run, inputs: Values) -> Glue | None:
        if not isinstance(self.program, SequenceProgram):
            return None
        return glue_below(self.program, index, run, inputs)

    @property
    def connects_equal_times(self) -> bool:
        """Whether the glue leads from each step to the same step above, and nowhere else."""
        return all(
            port.kind == "slice" and all(source == target for source, target in pairs)
            for connected in self._connections.values()
            for port, by_state in connected.items()
            for pairs in by_state.values()
        )

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
            times: chosen steps. A tensor is for `vmap` over samples with steps of their own, where the glue
                connects equal times: lagged edges then have a point at the first step that is not one.
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
                ports = {port.body for port in connected}
                reads = _pull_cell(module, trajectory, times, cotangents(layer), names, ports)
                found += _inside(reads, layer, beside, times, site)
                if glue is not None and connected:
                    found += _through_glue(reads, layer, glue, connected, below, times)
            lower += layers
        return found


def _sources(layer: Layer, others: Sequence[Layer], wanted: Wanted) -> list[Layer]:
    return [other for other in others if wanted is None or (other.id, layer.id) in wanted]


def _pull_cell(
    module: CellModule,
    trajectory: Trajectory,
    times: Times,
    cotangents: Tensor,
    states: set[str],
    through: set[str],
) -> Reads:
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


def _columns(reads: Reads, kind: str, layer: Layer) -> Tensor | None:
    """[P, R, n] with respect to a layer's state; None if none of it is read."""
    own = [reads.get((kind, state.name)) for state in layer.states]
    like = next((rows for rows in own if rows is not None), None)
    if like is None:
        return None
    shape = like.shape[:2]
    columns = [
        like.new_zeros(*shape, torch.Size(state.shape).numel()) if rows is None else flat_from(rows, 2)
        for state, rows in zip(layer.states, own, strict=True)
    ]
    return columns[0] if len(columns) == 1 else torch.cat(columns, 2)


def _inside(
    reads: Reads, layer: Layer, sources: Sequence[Layer], times: Times, site: SiteModule
) -> list[EdgeRows]:
    """Edges within one site: in time, and between the layers of one step at lag 0 and 1."""
    first = site.times()[0]
    every = tuple(range(len(times)))
    later = every if isinstance(times, Tensor) else tuple(k for k, time in enumerate(times) if time != first)
    found = []
    for other in sources:
        kinds = [("before", True)] if other is layer else [("after", False), ("before", True)]
        for kind, is_lagged in kinds:
            rows = _columns(reads, kind, other)
            which = later if is_lagged else every
            if rows is not None and which:
                own = _chosen(rows, which)
                found.append(EdgeRows(other.id, layer.id, which, own, is_lagged))
    return found


def _through_glue(
    reads: Reads,
    layer: Layer,
    glue: Glue,
    connected: Connections,
    lower: Sequence[Layer],
    times: Times,
) -> list[EdgeRows]:
    num_steps = glue.site.site.num_steps
    equal = frozenset((time, time) for time in range(num_steps))
    names = {name for by_state in connected.values() for name in by_state}
    sources = [other for other in lower if any(state.name in names for state in other.states)]
    if all(p.kind == "slice" and pairs <= equal for p, n in connected.items() for pairs in n.values()):
        pulled = _pull_together(reads, glue, connected, times, num_steps)
        index = torch.as_tensor(times)
        whole = {
            # Chosen steps before anything is copied: the others hold zeros.
            other.id: torch.cat([flat_from(pulled[s.name][:, index], 2) for s in other.states], 2)
            for other in sources
        }
        return [
            EdgeRows(name, layer.id, tuple(range(len(times))), rows.movedim(1, 0))
            for name, rows in whole.items()
        ]
    assert not isinstance(times, Tensor)
    return _pull_one_by_one(reads, layer, glue, connected, sources, times)


def _pull_together(
    reads: Reads, glue: Glue, connected: Connections, times: Times, num_steps: int
) -> dict[str, Tensor]:
    """All chosen times in one pull: right where the glue connects equal times only."""
    cotangents: dict[str, Tensor] = {}
    index = torch.as_tensor(times)
    for port in connected:
        rows = reads[(port.kind, port.body)]
        full = rows.new_zeros(num_steps, *rows.shape[1:]).index_put((index.to(rows.device),), rows)
        _add(cotangents, port.main, port.place(full, None, glue.read[port.main]))
    return pull_rows(glue, cotangents)


def _pull_one_by_one(
    reads: Reads,
    layer: Layer,
    glue: Glue,
    connected: Connections,
    sources: Sequence[Layer],
    times: Sequence[int],
) -> list[EdgeRows]:
    first = glue.site.times()[0]
    rows: dict[str, list[Tensor]] = {other.id: [] for other in sources}
    targets: dict[str, list[int]] = {other.id: [] for other in sources}
    for position, time in enumerate(times):
        cotangents: dict[str, Tensor] = {}
        for port in connected:
            if port.kind != "initial" or time == first:
                kind = "before" if port.kind == "initial" else port.kind
                placed = port.place(reads[(kind, port.body)][position], time, glue.read[port.main])
                _add(cotangents, port.main, placed)
        if not cotangents:
            continue
        pulled = pull_rows(glue, cotangents)
        for other in sources:
            whole = torch.cat([flat_from(pulled[state.name], 2) for state in other.states], 2)
            own = {state.name for state in other.states}
            for source in source_times(connected, own, time):
                rows[other.id].append(whole[:, source])
                targets[other.id].append(position)
    return [
        EdgeRows(other.id, layer.id, tuple(targets[other.id]), torch.stack(rows[other.id]))
        for other in sources
        if rows[other.id]
    ]


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
