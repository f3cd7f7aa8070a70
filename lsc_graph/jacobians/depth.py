"""Derivatives across the glue: from what a cell reads of the main graph back to the states below.

The glue may be anything between two recurrences. Which times of a lower layer reach which time of an
upper one is settled by backpropagating from one step at a time; where only equal times are connected,
the blocks of all times are pulled back together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vjp, vmap

from lsc_graph.jacobians.cell import MAX_BATCH_BYTES, flat_from
from lsc_graph.recurrence.site import RecurrentSite
from lsc_graph.to_torch.loop import CellModule, SiteModule, Values
from lsc_graph.to_torch.program import Run, SequenceProgram

Pull = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class Glue:
    """The derivative of what a site reads with respect to the states of the earlier sites.

    `read` are the floating-point values that are read, by main-graph name; `pull` maps cotangents of
    them to cotangents of the states, [T, *shape] by state name.
    """

    site: SiteModule
    read: dict[str, Tensor]
    pull: Pull


def glue_below(program: SequenceProgram, target: int, run: Run, inputs: Values) -> Glue | None:
    """The glue in front of site number `target`; None if it reads nothing from below."""
    site = program.sites[target]
    assert isinstance(site, SiteModule)
    states: dict[str, Tensor] = {}
    for lower, trajectory in zip(program.sites[:target], run.trajectories[:target], strict=True):
        assert isinstance(lower, SiteModule)
        states |= {state.name: trajectory.after[state.name] for state in lower.layered}
    wanted = program.reads_from_below[target]
    if not wanted:
        return None

    def read(given: dict[str, Tensor]) -> dict[str, Tensor]:
        values = program.reads_given_states(target, given, run, inputs)
        return {name: values[name] for name in wanted if values[name].is_floating_point()}

    values, pullback, *_ = vjp(read, states)

    def pull(cotangents: dict[str, Tensor]) -> dict[str, Tensor]:
        full = {name: cotangents.get(name, torch.zeros_like(value)) for name, value in values.items()}
        (result,) = pullback(full)
        return dict(result)

    return Glue(site, values, pull)


@dataclass(frozen=True)
class Port:
    """One value through which a cell reads the main graph: at each step a slice, or the whole of it."""

    kind: str
    body: str
    main: str
    axis: int
    flipped: bool

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
        if time is None:
            placed[:] = rows.flip(0) if self.flipped else rows
        else:
            placed[moved.shape[0] - 1 - time if self.flipped else time] = rows
        return placed.movedim(0, self.axis + 1)


def ports_of(module: CellModule, glue: Glue) -> tuple[Port, ...]:
    """Where a cell reads what depends on the states below: slices, initial states, captures."""
    site = glue.site
    record: RecurrentSite = site.site
    ports = [
        Port("slice", s.body, s.main, s.axis, s.reverse != site.is_reverse)
        for s in record.inputs
        if s.body in module.cell.slices
    ]
    ports += [
        Port("initial", state.name, state.initial, 0, False)
        for state in module.cell.layer.states
        if state.initial
    ]
    ports += [
        Port("capture", body, main, 0, False)
        for body, main in record.captures.items()
        if body in module.cell.captures
    ]
    return tuple(port for port in ports if port.main in glue.read)


Pairs = frozenset[tuple[int, int]]
Connections = dict[Port, dict[str, Pairs]]


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


def time_pairs(
    glue: Glue, port: Port, num_steps: int, first: int, generator: torch.Generator
) -> dict[str, Pairs]:
    """Which (t_source, t_target) a port connects, per state below: found by one-step cotangents."""
    value = glue.read[port.main]
    times = [first] if port.kind == "initial" else list(range(num_steps))
    if port.kind == "slice":
        shape = value.movedim(port.axis, 0).shape[1:]
        noise = torch.randn(len(times), *shape, generator=generator).to(value)
        cotangents = torch.stack([port.place(noise[t : t + 1], t, value)[0] for t in times])
    else:
        cotangents = torch.randn(1, *value.shape, generator=generator).to(value)
    found: dict[str, Pairs] = {}
    for name, touched in _touched(glue, port.main, cotangents).items():
        rows = touched if port.kind == "slice" else touched.expand(len(times), -1)
        found[name] = frozenset(
            (int(source), time) for time, row in zip(times, rows, strict=True) for source in row.nonzero()
        )
    return {name: pairs for name, pairs in found.items() if pairs}


def _touched(glue: Glue, main: str, cotangents: Tensor) -> dict[str, Tensor]:
    """Per state below: which of its times [R, T] each of the cotangents [R, ...] of a value reaches."""
    pulled = pull_rows(glue, {main: cotangents})
    gradients = {name: flat_from(gradient, 2) for name, gradient in pulled.items()}
    sizes = {name: gradient.abs().amax(2) for name, gradient in gradients.items()}
    limit = _MAYBE_ROUNDING * torch.stack([size.amax(1) for size in sizes.values()]).amax(0)[:, None]
    if not any(bool(((size > 0) & (size < limit)).any()) for size in sizes.values()):
        return {name: size > 0 for name, size in sizes.items()}
    again = pull_rows(glue, {main: _OTHER_SCALE * cotangents})
    found = {}
    for name, size in sizes.items():
        change = flat_from(again[name], 2) / _OTHER_SCALE - gradients[name]
        found[name] = (size > 0) & ((size >= limit) | (change.abs().amax(2) <= _SAME * size))
    return found


def pull_rows(glue: Glue, cotangents: dict[str, Tensor]) -> dict[str, Tensor]:
    """Pull back a batch of cotangents [R, ...], in chunks that fit in memory."""
    num_rows = next(iter(cotangents.values())).shape[0]
    volume = sum(value.numel() for value in glue.read.values()) * 4
    size = max(1, min(num_rows, MAX_BATCH_BYTES // (16 * max(volume, 1))))
    chunks = [
        vmap(glue.pull)({name: rows[start : start + size] for name, rows in cotangents.items()})
        for start in range(0, num_rows, size)
    ]
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
