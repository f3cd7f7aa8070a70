"""Rows of Jacobians between recurrences: pulled back through the glue, for all chosen steps together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lsc_graph.jacobians.cell import MAX_BATCH_BYTES, flat_from
from lsc_graph.jacobians.delayed import Rows
from lsc_graph.jacobians.depth import Connections, Glue, pull_rows
from lsc_graph.layers.cells import Layer
from lsc_graph.pretraining.edge_rows import EdgeRows, Sources, Times


def sources_of(connected: Connections, other: Layer, num_steps: int) -> Sources:
    """The times of a layer that are connected to each time, ascending."""
    names = {state.name for state in other.states}
    found: list[set[int]] = [set() for _ in range(num_steps)]
    for by_state in connected.values():
        for name, pairs in by_state.items():
            for source, target in pairs if name in names else ():
                found[target].add(source)
    return tuple(tuple(sorted(own)) for own in found)


def connected_to(lower: Sequence[Layer], connected: Connections) -> list[Layer]:
    names = {name for by_state in connected.values() for name in by_state}
    return [other for other in lower if any(state.name in names for state in other.states)]


def pull_together(
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


def pull_each(
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
