"""Derivatives through delays: what a step reads of one was written by other layers, more steps back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor
from torch.func import vjp, vmap

from lsc_graph.jacobians.cell import flat_from
from lsc_graph.layers.cells import Read, size
from lsc_graph.recurrence.site import StateVariable
from lsc_graph.to_torch.loop import CellModule, SiteModule, Trajectory

Rows = dict[Read, Tensor]
STATES = ("before", "after")


def through_delays(
    site: SiteModule,
    trajectory: Trajectory,
    pulled: Mapping[tuple[str, str], Tensor],
    times: Sequence[int] | Tensor,
    through: Collection[str] = (),
) -> Rows:
    """Cotangents of what a cell reads, those of delays pulled back to what these were computed from.

    The chain rule, step by step: d reader[t] / d delay[t-1] times d delay[t-1] / d writer[t-1].

    Args:
        site: the recurrence of the cell.
        trajectory: what it did.
        pulled: cotangents [P, R, *shape] per (kind, name) that the cell reads.
        times: the steps [P] that it reads them at.
        through: slices, captures and first states of delays, by body input, to pull back to as well.

    Returns:
        The same per `Read`, which are of states of layers, slices, captures and first states of delays.
    """
    rows: Rows = {Read(kind, name): value for (kind, name), value in pulled.items()}
    steps = torch.as_tensor(times)
    for module in reversed(site.delays):
        assert isinstance(module, CellModule)
        name = module.cell.layer.name
        for read in [read for read in rows if read.name == name and read.kind == "before"]:
            block = rows.pop(read)
            own = steps - (read.lag if not site.is_reverse else -read.lag)
            if name in through:
                is_first = own == site.times()[0]
                rows[Read("initial", name, read.lag)] = _where(is_first, block)
            for earlier, value in _pull(module, trajectory, block, own, site, through).items():
                key = Read(earlier.kind, earlier.name, 0 if earlier.kind == "capture" else read.lag + 1)
                rows[key] = rows[key] + value if key in rows else value
    return rows


def _pull(
    module: CellModule,
    trajectory: Trajectory,
    cotangents: Tensor,
    times: Tensor,
    site: SiteModule,
    through: Collection[str],
) -> Rows:
    """Cotangents of what a delay holds at some steps, pulled back to what it was computed from one before."""
    before = times + 1 if site.is_reverse else times - 1
    count = site.site.num_steps
    is_there = (before >= 0) & (before < count)
    index = before.clamp(0, count - 1)
    pools = {"before": trajectory.before, "after": trajectory.after, "slice": trajectory.slices}
    points: list[Tensor] = []
    which: list[int] = []
    for position, (kind, name) in enumerate(module.reads):
        value = trajectory.captures[name] if kind == "capture" else pools[kind][name]
        points.append(value if kind == "capture" else value[index.to(value.device)])
        is_state = kind in STATES and name != module.cell.layer.name
        if value.is_floating_point() and (is_state or name in through):
            which.append(position)
    if not which:
        return {}

    def pull(rows: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        def function(*chosen: Tensor) -> Tensor:
            given = list(values)
            for position, value in zip(which, chosen, strict=True):
                given[position] = value
            written: tuple[Tensor] = module(*given)
            return written[0]

        _, pullback, *_ = vjp(function, *(values[position] for position in which))
        found: tuple[Tensor, ...] = vmap(pullback)(rows)
        return found

    dims = (0, *(None if kind == "capture" else 0 for kind, _ in module.reads))
    found = vmap(pull, in_dims=dims)(cotangents.to(points[which[0]]), *points)
    return {
        Read(*module.reads[position]): _where(is_there, value)
        for position, value in zip(which, found, strict=True)
    }


def _where(condition: Tensor, rows: Tensor) -> Tensor:
    """Rows [P, ...] at the points where a condition holds, zeros elsewhere."""
    shaped = condition.to(rows.device).reshape(-1, *(1 for _ in rows.shape[1:]))
    return torch.where(shaped, rows, torch.zeros((), dtype=rows.dtype, device=rows.device))


def state_columns(rows: Rows, steps_back: int, states: Sequence[StateVariable]) -> Tensor:
    """[P, R, n] of given states so many steps back, zero for those that are not read."""
    like = next(iter(rows.values()))
    columns = []
    for state in states:
        parts = [
            flat_from(block, 2)
            for read, block in rows.items()
            if read.name == state.name and read.kind in STATES and read.steps_back == steps_back
        ]
        columns.append(
            sum(parts[1:], parts[0]) if parts else like.new_zeros(*like.shape[:2], size(state.shape))
        )
    return columns[0] if len(columns) == 1 else torch.cat(columns, 2)
