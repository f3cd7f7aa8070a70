"""Local Jacobians of a whole run: M_time and M_depth for every layer and step (theory section 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lsc_graph.errors import AnalysisError
from lsc_graph.jacobians.blocks import UnitBlocks, unit_blocks
from lsc_graph.jacobians.cell import cell_jacobians, flat_from
from lsc_graph.jacobians.depth import (
    Connections,
    Glue,
    Port,
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
from lsc_graph.jacobians.time_maps import TimeMaps
from lsc_graph.layers.cells import DepthEdge, Layer
from lsc_graph.recurrence.site import StateVariable
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


@dataclass(frozen=True)
class LocalJacobians:
    """One sample. `time` is [T, n, n] by layer id, at the time of the new state; `depth` as listed.

    Large layers whose units do not meet in time have their blocks in `units` in place of `time`, others that
    are too large for dense blocks their maps in `time_maps`; depth edges of layers that are too large for
    dense blocks are in `maps`.
    """

    time: dict[str, Tensor]
    depth: tuple[DepthBlocks, ...]
    units: dict[str, UnitBlocks] = field(default_factory=dict)
    maps: tuple[DepthMaps, ...] = ()
    time_maps: dict[str, TimeMaps] = field(default_factory=dict)


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
                known = _depth_maps(module, trajectory, others, glue, ports, lower, generator)
                if isinstance(known, list):
                    maps += known
                    if blocks is None:
                        time_maps[module.cell.layer.id] = TimeMaps.of(module, trajectory, generator)
                    continue
                if blocks is not None:
                    raise known
            jacobians = cell_jacobians(module, trajectory, {port.body for port in ports})
            layer = module.cell.layer
            if blocks is None:
                time[layer.id] = _columns(jacobians, "before", layer.states)
            depth += _within_step(jacobians, layer, others)
            if glue is not None:
                depth += _through_glue(jacobians, module, glue, ports, lower, generator)
        lower += layers
    return LocalJacobians(
        {layer_id: blocks.detach() for layer_id, blocks in time.items()},
        tuple(DepthBlocks(d.edge, d.pairs, d.blocks.detach()) for d in depth),
        units,
        tuple(maps),
        time_maps,
    )


def _depth_maps(
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
        found = maps_within_step(module, trajectory, others)
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


def _columns(jacobians: dict[tuple[str, str], Tensor], kind: str, states: Sequence[StateVariable]) -> Tensor:
    """[T, n_out, n_in] with respect to the given states, zero for those that are not read."""
    like = next(iter(jacobians.values()))
    columns = []
    for state in states:
        block = jacobians.get((kind, state.name))
        width = int(torch.Size(state.shape).numel())
        columns.append(like.new_zeros(*like.shape[:2], width) if block is None else flat_from(block, 2))
    return torch.cat(columns, 2)


def _within_step(
    jacobians: dict[tuple[str, str], Tensor], layer: Layer, others: Sequence[Layer]
) -> list[DepthBlocks]:
    found = []
    for other in others:
        for kind, lag in (("after", 0), ("before", 1)):
            if any((kind, state.name) in jacobians for state in other.states):
                blocks = _columns(jacobians, kind, other.states)
                shift = lag * layer.time_step
                num_steps = blocks.shape[0]
                times = [t for t in range(num_steps) if 0 <= t - shift < num_steps]
                pairs = tuple((t - shift, t) for t in times)
                found.append(DepthBlocks(DepthEdge(other.id, layer.id, shift), pairs, blocks[times]))
    return found


def _through_glue(
    jacobians: dict[tuple[str, str], Tensor],
    module: CellModule,
    glue: Glue,
    ports: Sequence[Port],
    lower: Sequence[Layer],
    generator: torch.Generator,
) -> list[DepthBlocks]:
    num_steps = next(iter(jacobians.values())).shape[0]
    first = glue.site.times()[0]
    connected: Connections = {}
    for port in ports:
        pairs = time_pairs(glue, port, num_steps, first, generator)
        if pairs:
            connected[port] = pairs
    if not connected:
        return []
    rows = {port: _rows(jacobians, port) for port in connected}
    every = frozenset((t, t) for t in range(num_steps))
    equal_times = all(
        port.kind == "slice" and found <= every
        for port, names in connected.items()
        for found in names.values()
    )
    if equal_times and all(layer.num_steps == module.cell.layer.num_steps for layer in lower):
        pulled = _pull_equal_times(glue, rows)
        return [_equal_times(layer, module.cell.layer, pulled) for layer in _reached(lower, connected)]
    return _pull_pairs(glue, rows, connected, _reached(lower, connected), module.cell.layer, num_steps, first)


def _rows(jacobians: dict[tuple[str, str], Tensor], port: Port) -> Tensor:
    kind = "before" if port.kind == "initial" else port.kind
    return jacobians[(kind, port.body)]


def _reached(lower: Sequence[Layer], connected: Connections) -> list[Layer]:
    names = {name for found in connected.values() for name in found}
    return [layer for layer in lower if any(state.name in names for state in layer.states)]


def _pull_equal_times(glue: Glue, rows: dict[Port, Tensor]) -> dict[str, Tensor]:
    cotangents: dict[str, Tensor] = {}
    for port, block in rows.items():
        placed = port.place(block, None, glue.read[port.main])
        cotangents[port.main] = cotangents[port.main] + placed if port.main in cotangents else placed
    return pull_rows(glue, cotangents)


def _equal_times(source: Layer, target: Layer, pulled: dict[str, Tensor]) -> DepthBlocks:
    blocks = torch.cat([flat_from(pulled[state.name], 2) for state in source.states], 2).movedim(1, 0)
    pairs = tuple((t, t) for t in range(blocks.shape[0]))
    return DepthBlocks(DepthEdge(source.id, target.id), pairs, blocks)


def _pull_pairs(
    glue: Glue,
    rows: dict[Port, Tensor],
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
        for port, block in rows.items():
            if port.kind == "initial" and time != first:
                continue
            placed = port.place(block[time], time, glue.read[port.main])
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
