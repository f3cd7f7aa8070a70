"""Local Jacobians of a whole run: M_time and M_depth for every layer and step (theory section 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lsc_graph.errors import AnalysisError
from lsc_graph.jacobians.blocks import UnitBlocks, unit_blocks
from lsc_graph.jacobians.built import has_black_box
from lsc_graph.jacobians.cell import cell_jacobians, flat_from
from lsc_graph.jacobians.delayed import STATES, Rows, state_columns, through_delays
from lsc_graph.jacobians.depth import (
    Connections,
    Glue,
    Port,
    by_lag,
    glue_below,
    ports_of,
    pull_rows,
    source_times,
    time_pairs,
)
from lsc_graph.jacobians.depth_maps import (
    MAPS_FROM,
    MAX_DENSE_BYTES,
    MAX_TIME_BYTES,
    DepthMaps,
    is_too_large,
    maps_through_glue,
    maps_within_step,
)
from lsc_graph.jacobians.pushed import pushed_jacobians, too_many_elements
from lsc_graph.jacobians.pushes import Pushes
from lsc_graph.jacobians.time_maps import TimeMaps
from lsc_graph.layers.cells import DepthEdge, Layer
from lsc_graph.to_torch.loop import CellModule, SiteModule, Trajectory, Values
from lsc_graph.to_torch.program import Run, SequenceProgram, StreamingProgram

_MIN_UNITWISE = 128


@dataclass(frozen=True)
class DepthBlocks:
    """The blocks d s[t_target, target] / d s[t_source, source] of one depth edge.

    `blocks` is [P, n_target, n_source], one for each of `pairs` (t_source, t_target).
    """

    edge: DepthEdge
    pairs: tuple[tuple[int, int], ...]
    blocks: Tensor

    @property
    def ends(self) -> tuple[str, str, tuple[tuple[int, int], ...]]:
        """Which derivatives these are."""
        return self.edge.source, self.edge.target, self.pairs


@dataclass(frozen=True)
class LocalJacobians:
    """One sample. `time` is [T, n, n] by layer id, at the time of the new state; `depth` as listed.

    Large layers whose units do not meet in time have their blocks in `units` in place of `time`, others that
    are too large for dense blocks their maps in `time_maps`; depth edges of layers that are too large for
    dense blocks are in `maps`. Where differences by elements would be too many, every edge is in `pushes`.
    """

    time: dict[str, Tensor]
    depth: tuple[DepthBlocks, ...]
    units: dict[str, UnitBlocks] = field(default_factory=dict)
    maps: tuple[DepthMaps, ...] = ()
    time_maps: dict[str, TimeMaps] = field(default_factory=dict)
    pushes: tuple[Pushes, ...] = ()

    def within(self, enter: Callable[[], AbstractContextManager[None]]) -> LocalJacobians:
        """The same, with products within what is entered for them."""
        time_maps = {name: replace(own, within=enter) for name, own in self.time_maps.items()}
        maps = tuple(own.within(enter) for own in self.maps)
        pushes = tuple(own.within(enter) for own in self.pushes)
        return replace(self, maps=maps, time_maps=time_maps, pushes=pushes)


def together(depth: Sequence[DepthBlocks]) -> list[DepthBlocks]:
    """The blocks between the same two layers as one, whatever their lags, by the times of their targets."""
    found: dict[tuple[str, str], list[DepthBlocks]] = {}
    for own in depth:
        found.setdefault((own.edge.source, own.edge.target), []).append(own)
    return [own[0] if len(own) == 1 else _joined(own) for own in found.values()]


def _joined(parts: Sequence[DepthBlocks]) -> DepthBlocks:
    pairs = [pair for part in parts for pair in part.pairs]
    order = sorted(range(len(pairs)), key=lambda index: (pairs[index][1], pairs[index][0]))
    ordered = tuple(pairs[index] for index in order)
    edge = DepthEdge(parts[0].edge.source, parts[0].edge.target, time_pairs=ordered)
    return DepthBlocks(edge, ordered, torch.cat([part.blocks for part in parts])[order])


def local_jacobians(
    program: SequenceProgram | StreamingProgram, run: Run, inputs: Values, generator: torch.Generator
) -> LocalJacobians:
    """All local Jacobians along the trajectories of one run.

    Args:
        program: the model.
        run: what the sample did in it.
        inputs: the sample's inputs, as they were given to `program`.
        generator: randomness for finding which times the glue connects.
    """
    if too_many_elements(program, run):
        return LocalJacobians({}, (), pushes=pushed_jacobians(program, run, inputs))
    time: dict[str, Tensor] = {}
    depth: list[DepthBlocks] = []
    units: dict[str, UnitBlocks] = {}
    maps: list[DepthMaps] = []
    time_maps: dict[str, TimeMaps] = {}
    lower: list[Layer] = []
    for index, (site, trajectory) in enumerate(zip(program.sites, run.trajectories, strict=True)):
        assert isinstance(site, SiteModule)
        glue = glue_below(program, index, run, inputs) if isinstance(program, SequenceProgram) else None
        layers = [module.cell.layer for module in site.cells if isinstance(module, CellModule)]
        for module in site.cells:
            assert isinstance(module, CellModule)
            ports = ports_of(module, glue) if glue is not None else ()
            others = [other for other in layers if other is not module.cell.layer]
            blocks = _units(module, trajectory, generator)
            if blocks is not None:
                units[module.cell.layer.id] = blocks
            num_steps = len(next(iter(trajectory.after.values())))
            max_bytes = MAX_TIME_BYTES if blocks is None else MAX_DENSE_BYTES
            is_large = blocks is None and module.cell.layer.state_size >= MAPS_FROM
            if is_large or is_too_large(module, num_steps, max_bytes):
                known = _depth_maps(site, module, trajectory, others, glue, ports, lower, generator)
                if isinstance(known, list):
                    maps += [own.built() for own in known] if has_black_box(module) else known
                    if blocks is None:
                        time_maps[module.cell.layer.id] = TimeMaps.of(module, trajectory, generator)
                    continue
                if blocks is not None:
                    raise known
            through = {port.body for port in ports}
            jacobians = cell_jacobians(module, trajectory, through)
            layer = module.cell.layer
            rows = through_delays(site, trajectory, jacobians, range(num_steps), through)
            if blocks is None:
                time[layer.id] = state_columns(rows, 1, layer.states)
            depth += _within_step(rows, layer, others)
            if glue is not None:
                depth += _through_glue(rows, module, glue, ports, lower, generator)
        lower += layers
    return LocalJacobians(
        {layer_id: blocks.detach() for layer_id, blocks in time.items()},
        tuple(DepthBlocks(d.edge, d.pairs, d.blocks.detach()) for d in depth),
        units,
        tuple(maps),
        time_maps,
    )


def _depth_maps(
    site: SiteModule,
    module: CellModule,
    trajectory: Trajectory,
    others: Sequence[Layer],
    glue: Glue | None,
    ports: Sequence[Port],
    lower: Sequence[Layer],
    generator: torch.Generator,
) -> list[DepthMaps] | AnalysisError:
    """The depth edges of a layer by their products, or why they are not known by these."""
    try:
        found = maps_within_step(site, module, trajectory, others)
        if glue is not None:
            found += maps_through_glue(module, trajectory, glue, ports, lower, generator)
    except AnalysisError as error:
        return error
    return found


def _units(module: CellModule, trajectory: Trajectory, generator: torch.Generator) -> UnitBlocks | None:
    """Blocks of the units of a large layer; small ones are as cheap dense."""
    if module.cell.layer.state_size < _MIN_UNITWISE:
        return None
    return unit_blocks(module, trajectory, generator)


def _within_step(rows: Rows, layer: Layer, others: Sequence[Layer]) -> list[DepthBlocks]:
    found = []
    for other in others:
        names = {state.name for state in other.states}
        for lag in sorted({read.steps_back for read in rows if read.kind in STATES and read.name in names}):
            blocks = state_columns(rows, lag, other.states)
            shift = lag * layer.time_step
            num_steps = blocks.shape[0]
            times = [t for t in range(num_steps) if 0 <= t - shift < num_steps]
            pairs = tuple((t - shift, t) for t in times)
            found.append(DepthBlocks(DepthEdge(other.id, layer.id, shift), pairs, blocks[times]))
    return found


def _through_glue(
    rows: Rows,
    module: CellModule,
    glue: Glue,
    ports: Sequence[Port],
    lower: Sequence[Layer],
    generator: torch.Generator,
) -> list[DepthBlocks]:
    num_steps = next(iter(rows.values())).shape[0]
    first = glue.site.times()[0]
    connected: Connections = {}
    for port in ports:
        pairs = time_pairs(glue, port, num_steps, first, generator)
        if pairs:
            connected[port] = pairs
    if not connected:
        return []
    lags = by_lag(connected)
    layer = module.cell.layer
    if lags is not None and all(other.num_steps == layer.num_steps for other in lower):
        return [
            _at_lag(source, layer, pulled, lag, own)
            for lag, own in lags.items()
            for pulled in [_pull_together(glue, own, rows)]
            for source in _reached(lower, own)
        ]
    return _pull_pairs(glue, rows, connected, _reached(lower, connected), layer, num_steps, first)


def _reached(lower: Sequence[Layer], connected: Connections) -> list[Layer]:
    names = {name for found in connected.values() for name in found}
    return [layer for layer in lower if any(state.name in names for state in layer.states)]


def _pull_together(glue: Glue, ports: Iterable[Port], rows: Rows) -> dict[str, Tensor]:
    """The rows of all times in one pull: right where no two of them reach the same time below."""
    cotangents: dict[str, Tensor] = {}
    for port in ports:
        placed = port.place(port.of(rows), None, glue.read[port.main])
        cotangents[port.main] = cotangents[port.main] + placed if port.main in cotangents else placed
    return pull_rows(glue, cotangents)


def _at_lag(
    source: Layer, target: Layer, pulled: dict[str, Tensor], lag: int, connected: Connections
) -> DepthBlocks:
    """The blocks of one lag, at the times that are connected: at all of them, or as listed."""
    flat = [flat_from(pulled[state.name], 2) for state in source.states]
    whole = (flat[0] if len(flat) == 1 else torch.cat(flat, 2)).movedim(1, 0)
    names = {state.name for state in source.states}
    found = {p for own in connected.values() for name in names & own.keys() for p in own[name]}
    pairs = tuple(sorted(found))
    is_whole = lag == 0 or len(pairs) == whole.shape[0] - abs(lag)
    if lag == 0:  # zero blocks are blocks
        pairs = tuple((time, time) for time in range(whole.shape[0]))
    edge = DepthEdge(source.id, target.id, lag) if is_whole else None
    edge = edge or DepthEdge(source.id, target.id, time_pairs=pairs)
    times = [time for time, _ in pairs]
    return DepthBlocks(edge, pairs, whole if times == list(range(len(whole))) else whole[times])


def _pull_pairs(
    glue: Glue,
    rows: Rows,
    connected: Connections,
    sources: Sequence[Layer],
    target: Layer,
    num_steps: int,
    first: int,
) -> list[DepthBlocks]:
    blocks: dict[str, list[Tensor]] = {layer.id: [] for layer in sources}
    pairs: dict[str, list[tuple[int, int]]] = {layer.id: [] for layer in sources}
    for time in range(num_steps):
        cotangents: dict[str, Tensor] = {}
        for port in connected:
            if port.kind == "initial" and time != first + port.lag:
                continue
            placed = port.place(port.of(rows)[time], time, glue.read[port.main])
            cotangents[port.main] = cotangents[port.main] + placed if port.main in cotangents else placed
        if not cotangents:
            continue
        pulled = pull_rows(glue, cotangents)
        for layer in sources:
            names = [state.name for state in layer.states]
            whole = torch.cat([flat_from(pulled[name], 2) for name in names], 2)
            for source_time in source_times(connected, names, time):
                pairs[layer.id].append((source_time, time))
                blocks[layer.id].append(whole[:, source_time])
    return [
        DepthBlocks(
            DepthEdge(layer.id, target.id, time_pairs=tuple(pairs[layer.id])),
            tuple(pairs[layer.id]),
            torch.stack(blocks[layer.id]),
        )
        for layer in sources
        if pairs[layer.id]
    ]
