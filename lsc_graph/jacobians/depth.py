"""Derivatives across the glue: from what a cell reads of the main graph back to the states below.

The glue may be anything between two recurrences. Which times of a lower layer reach which time of an
upper one is settled by backpropagating from one step at a time; where only equal times are connected,
the blocks of all times are pulled back together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.func import vjp, vmap

from lsc_graph.jacobians.cell import MAX_BATCH_BYTES, flat_from
from lsc_graph.layers.cells import Read
from lsc_graph.recurrence.site import RecurrentSite
from lsc_graph.running.deadline import in_time
from lsc_graph.to_torch.all_sides import AllSides
from lsc_graph.to_torch.loop import CellModule, SiteModule, Values
from lsc_graph.to_torch.program import Run, SequenceProgram

Pull = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class Glue:
    """The derivative of what a site reads with respect to the states of the earlier sites.

    `read` are the floating-point values that are read, by main-graph name; `pull` maps cotangents of
    them to cotangents of the states, [T, *shape] by state name. `trace` finds a map that takes the place of
    `pull` where it is only asked who is read: selections pass to all sides. It is None if that is `pull`.
    """

    site: SiteModule
    read: dict[str, Tensor]
    pull: Pull
    trace: Callable[[], Pull | None] = lambda: None

    @cached_property
    def reach(self) -> Pull:
        """Who is read, whichever side of a selection was chosen."""
        return self.trace() or self.pull


Reading = Callable[..., dict[str, Tensor]]


def glue_of(
    site: SiteModule, read: Reading, given: Sequence[Values], joined: Callable[..., dict[str, Tensor]]
) -> Glue:
    """The glue that `read` is, a function of what is `given`; `joined` makes its cotangents one mapping."""

    def traced() -> tuple[dict[str, Tensor], Pull]:
        values, pullback, *_ = vjp(read, *given)

        def pull(cotangents: dict[str, Tensor]) -> dict[str, Tensor]:
            full = {name: cotangents.get(name, torch.zeros_like(value)) for name, value in values.items()}
            return joined(*pullback(full))

        return values, pull

    def trace() -> Pull | None:
        with AllSides() as sides:
            _, pull = traced()
        return pull if sides.has_selected else None

    values, pull = traced()
    return Glue(site, values, pull, trace)


def glue_below(program: SequenceProgram, target: int, run: Run, inputs: Values) -> Glue | None:
    """The glue in front of site number `target`; None if it reads nothing from below, or only clocks."""
    site = program.sites[target]
    assert isinstance(site, SiteModule)
    states: dict[str, Tensor] = {}
    for lower, trajectory in zip(program.sites[:target], run.trajectories[:target], strict=True):
        assert isinstance(lower, SiteModule)
        states |= {state.name: trajectory.after[state.name] for state in lower.layered}
    wanted = program.reads_from_below[target]
    if not wanted or not states:
        return None

    def read(given: dict[str, Tensor]) -> dict[str, Tensor]:
        values = program.reads_given_states(target, given, run, inputs)
        return {name: values[name] for name in wanted if values[name].is_floating_point()}

    return glue_of(site, read, (states,), dict)


@dataclass(frozen=True)
class Port:
    """One value through which a cell reads the main graph: at each step a slice, or the whole of it.

    `lag` is how many times before its own it reads the slice (behind its first one, a first state).
    """

    kind: str
    body: str
    main: str
    axis: int
    flipped: bool
    lag: int = 0

    def of(self, rows: Mapping[Read, Tensor]) -> Tensor:
        """Those rows that belong to what is read here; the first of a layer's own states is one of these."""
        first = Read("initial", self.body, abs(self.lag))
        own = (
            Read("before", self.body) if self.kind == "initial" else Read(self.kind, self.body, abs(self.lag))
        )
        return rows[first if self.kind == "initial" and first in rows else own]

    def place(self, rows: Tensor, time: int | None, like: Tensor) -> Tensor:
        """Cotangents of the main-graph value, zero but for what the step(s) read.

        Args:
            rows: [R, *shape] for one step, [T, R, *shape] for all of them (`time` None).
            time: the step.
            like: the main-graph value.

        Returns:
            [R, *main shape].
        """
        if self.kind != "slice":
            return rows.reshape(rows.shape[0], *like.shape)
        moved = like.movedim(self.axis, 0)
        num_rows = rows.shape[1] if time is None else rows.shape[0]
        placed = rows.new_zeros(moved.shape[0], num_rows, *moved.shape[1:])
        length = moved.shape[0]
        if time is None:
            read = rows[max(self.lag, 0) : length + min(self.lag, 0)]
            placed[max(-self.lag, 0) : length - max(self.lag, 0)] = read
        elif 0 <= time - self.lag < length:
            placed[time - self.lag] = rows
        placed = placed.flip(0) if self.flipped else placed
        return placed.movedim(0, self.axis + 1)

    def place_each(self, rows: Tensor, times: Tensor, first: int, like: Tensor) -> Tensor:
        """Cotangents of the main-graph value for every step alone.

        Args:
            rows: [P, R, *shape] for P steps.
            times: the steps [P].
            first: the first step of all.
            like: the main-graph value.

        Returns:
            [P R, *main shape].
        """
        if self.kind == "initial":
            is_there = (times == first + self.lag).to(rows.device)
            rows = torch.where(is_there.reshape(-1, *(1 for _ in rows.shape[1:])), rows, 0.0)
        if self.kind != "slice":
            return rows.reshape(-1, *like.shape)
        shape = like.movedim(self.axis, 0).shape
        places = torch.arange(shape[0], device=times.device)
        is_read = (times - self.lag)[:, None] == (places.flip(0) if self.flipped else places)
        is_read = is_read.reshape(len(times), 1, shape[0], *(1 for _ in shape[1:])).to(rows.device)
        placed = torch.where(is_read, rows.reshape(*rows.shape[:2], 1, *shape[1:]), 0.0)
        return placed.movedim(2, self.axis + 2).flatten(0, 1)


def ports_of(module: CellModule, glue: Glue) -> tuple[Port, ...]:
    """Where a cell reads what depends on the states below: slices, initial states, captures."""
    site = glue.site
    record: RecurrentSite = site.site
    sequences = {sequence.body: sequence for sequence in record.inputs}
    starts = {state.name: state.initial for state in record.states if state.initial}
    step = module.cell.layer.time_step
    ports = []
    for read in module.cell.reads:
        if read.kind == "slice":
            own = sequences[read.name]
            flipped = own.reverse != site.is_reverse
            ports.append(Port("slice", own.body, own.main, own.axis, flipped, read.lag * step))
        elif read.kind == "initial" and read.name in starts:
            ports.append(Port("initial", read.name, starts[read.name], 0, False, read.lag * step))
        elif read.kind == "capture":
            main = record.captures[read.name]
            ports.append(Port("capture", read.name, main, 0, False))
    own_starts = [state.name for state in module.cell.layer.states if state.initial]
    ports += [Port("initial", name, starts[name], 0, False) for name in own_starts]
    return tuple(port for port in ports if port.main in glue.read)


Pairs = frozenset[tuple[int, int]]
Connections = dict[Port, dict[str, Pairs]]


def by_lag(connected: Connections) -> dict[int, Connections] | None:
    """Ports of slices by how many times before its own a step sees the states below; None for other glue."""
    found: dict[int, Connections] = {}
    for port, names in connected.items():
        lags = {target - source for pairs in names.values() for source, target in pairs}
        if port.kind != "slice" or len(lags) != 1:
            return None
        found.setdefault(lags.pop(), {})[port] = names
    return dict(sorted(found.items(), key=lambda item: (abs(item[0]), item[0])))


def source_times(connected: Connections, names: Collection[str], time: int) -> list[int]:
    """The times of states called `names` that any port connects to `time`, ascending."""
    found = {
        source
        for by_state in connected.values()
        for name, pairs in by_state.items()
        if name in names
        for source, target in pairs
        if target == time
    }
    return sorted(found)


# Gradients so small, relative to the largest of their output time, may be rounding, as behind a Fourier
# transform: then they are not the same when the cotangent is another multiple of itself.
_MAYBE_ROUNDING, _OTHER_SCALE, _SAME = 1e-5, 1.37, 1e-1
_FEW_TIMES = 64
"""So many are told apart one by one."""


def time_pairs(
    glue: Glue, port: Port, num_steps: int, first: int, generator: torch.Generator
) -> dict[str, Pairs]:
    """Which (t_source, t_target) a port connects, per state below: found by one-step cotangents."""
    value = glue.read[port.main]
    times = list(range(num_steps))
    if port.kind == "initial":
        times = [first + port.lag] if 0 <= first + port.lag < num_steps else []
    if not times:
        return {}
    if port.kind == "slice":
        shape = value.movedim(port.axis, 0).shape[1:]
        noise = torch.randn(len(times), *shape, generator=generator).to(value)
        return _sliced_pairs(glue, port, noise)
    cotangents = torch.randn(1, *value.shape, generator=generator).to(value)
    touched = _touched(glue, port.main, cotangents)
    return _listed({name: rows.expand(len(times), -1) for name, rows in touched.items()}, times)


def _sliced_pairs(glue: Glue, port: Port, noise: Tensor) -> dict[str, Pairs]:
    """Of many times, blocks of neighbours and every so manyth one tell each apart, if few are connected."""
    num_steps = len(noise)
    is_long = num_steps == glue.read[port.main].shape[port.axis] > _FEW_TIMES
    if is_long and (found := _pairs_by_blocks(glue, port, noise)) is not None:
        return found
    times = range(num_steps)
    return _listed(_touched_by(glue, port, noise, [[time] for time in times]), times)


def _pairs_by_blocks(glue: Glue, port: Port, noise: Tensor) -> dict[str, Pairs] | None:
    """None where a time below is read at several times of one block, which are then not told apart."""
    num_steps, size = len(noise), math.isqrt(len(noise) - 1) + 1
    blocks = [range(start, min(start + size, num_steps)) for start in range(0, num_steps, size)]
    combs = [range(start, num_steps, size) for start in range(size)]
    found: dict[str, Pairs] = {}
    for name, touched in _touched_by(glue, port, noise, [*blocks, *combs]).items():
        by_block, by_comb = torch.split(touched.cpu(), [len(blocks), len(combs)])
        pairs = [
            (source, block[at])
            for block, own in zip(blocks, by_block, strict=True)
            for at, source in (by_comb[: len(block)] & own).nonzero().tolist()
        ]
        in_block = {(source, time // size) for source, time in pairs}
        in_comb = {(source, time % size) for source, time in pairs}
        if len(in_block) < len(pairs) or len(pairs) != by_block.sum() or len(in_comb) != by_comb.sum():
            return None
        found[name] = frozenset(pairs)
    return {name: pairs for name, pairs in found.items() if pairs}


def _listed(touched: Mapping[str, Tensor], times: Sequence[int]) -> dict[str, Pairs]:
    # All at once on the host, which would wait for another device at every row.
    whole = torch.cat(list(touched.values()), 1).cpu()
    parts = torch.split(whole, [rows.shape[1] for rows in touched.values()], 1)
    places = {name: rows.nonzero().tolist() for name, rows in zip(touched, parts, strict=True)}
    return {
        name: frozenset((source, times[row]) for row, source in own) for name, own in places.items() if own
    }


def _touched_by(glue: Glue, port: Port, noise: Tensor, groups: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Per state below: which of its times [G, T] what is read at some times together reaches."""
    value, size = glue.read[port.main], num_rows_at_once(glue)
    chunks = []
    for start in range(0, len(groups), size):
        own = groups[start : start + size]
        cotangents = torch.stack([_placed(port, noise, times, value) for times in own])
        chunks.append(_touched(glue, port.main, cotangents))
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _placed(port: Port, noise: Tensor, times: Sequence[int], value: Tensor) -> Tensor:
    if len(times) == 1:
        return port.place(noise[times[0] : times[0] + 1], times[0], value)[0]
    rows = torch.zeros_like(noise)
    rows[list(times)] = noise[list(times)]
    return port.place(rows.unsqueeze(1), None, value)[0]


def _touched(glue: Glue, main: str, cotangents: Tensor) -> dict[str, Tensor]:
    """Per state below: which of its times [R, T] each of the cotangents [R, ...] of a value reaches."""
    reaching = replace(glue, pull=glue.reach)
    pulled = pull_rows(reaching, {main: cotangents})
    gradients = {name: flat_from(gradient, 2) for name, gradient in pulled.items()}
    sizes = {name: gradient.abs().amax(2) for name, gradient in gradients.items()}
    limit = _MAYBE_ROUNDING * torch.stack([size.amax(1) for size in sizes.values()]).amax(0)[:, None]
    if not bool(torch.stack([((size > 0) & (size < limit)).any() for size in sizes.values()]).any()):
        return {name: size > 0 for name, size in sizes.items()}
    again = pull_rows(reaching, {main: _OTHER_SCALE * cotangents})
    found = {}
    for name, size in sizes.items():
        change = flat_from(again[name], 2) / _OTHER_SCALE - gradients[name]
        found[name] = (size > 0) & ((size >= limit) | (change.abs().amax(2) <= _SAME * size))
    return found


def pull_rows(glue: Glue, cotangents: dict[str, Tensor]) -> dict[str, Tensor]:
    """Pull back a batch of cotangents [R, ...], in chunks that fit in memory."""
    num_rows = next(iter(cotangents.values())).shape[0]
    size = min(num_rows, num_rows_at_once(glue))
    chunks = []
    for start in range(0, num_rows, size):
        in_time()
        part = {name: rows[start : start + size] for name, rows in cotangents.items()}
        chunks.append(vmap(glue.pull)(part))
    if len(chunks) == 1:
        return chunks[0]
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def num_rows_at_once(glue: Glue) -> int:
    """How many cotangents of all that is read fit in memory."""
    volume = sum(value.numel() for value in glue.read.values()) * 4
    return max(1, MAX_BATCH_BYTES // (16 * max(volume, 1)))
