"""Batches inside states: the Jacobians of layers that hold several independent entries, entry by entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lsc_graph.layers.cells import Layer, size

# Entries whose Jacobians differ from zero by less than this, relative to the largest element, do not meet.
_NOTHING = 1e-6


def entries_of(layer: Layer, axes: Sequence[int]) -> Tensor:
    """Where the elements of each entry lie in the flattened state of a layer [B, m].

    Args:
        layer: its states all have as many entries.
        axes: which axis of each state counts the entries.
    """
    found, start = [], 0
    for state, axis in zip(layer.states, axes, strict=True):
        places = start + torch.arange(size(state.shape)).reshape(state.shape)
        found.append(places.movedim(axis, 0).flatten(1))
        start += size(state.shape)
    return torch.cat(found, 1)


def among(entries: Tensor, kept: Sequence[int]) -> Tensor:
    """The same entries [B, m'] where only the elements `kept` of the state are left, renumbered."""
    number = torch.full((int(entries.max()) + 1,), -1)
    number[torch.tensor(kept, dtype=torch.long)] = torch.arange(len(kept))
    left = number[entries]
    return left[left >= 0].reshape(len(entries), -1)


def own_blocks(matrices: Tensor, rows: Tensor, columns: Tensor) -> list[Tensor] | None:
    """Matrices [P, n_out, n_in] as one [P, m_out, m_in] for each entry; None if entries meet."""
    if len(rows) != len(columns):
        return None
    blocks, rest = [], matrices.clone()
    for row, column in zip(rows.to(matrices.device), columns.to(matrices.device), strict=True):
        blocks.append(matrices[:, row[:, None], column[None]])
        rest[:, row[:, None], column[None]] = 0
    return None if _is_something(rest, matrices) else blocks


def _is_something(rest: Tensor, whole: Tensor) -> bool:
    return bool(rest.numel()) and bool(rest.abs().max() > _NOTHING * whole.abs().max())


def pulled_blocks(pull: Callable[[Tensor], Tensor], rows: Tensor, columns: Tensor) -> Tensor | None:
    """The block [B, m_out, m_in] of each entry from m_out products [K, n_out] -> [K, n_in] of all at once.

    Returns:
        None if entries meet.
    """
    if len(rows) != len(columns):
        return None
    (count, width), num_out = rows.shape, int(rows.max()) + 1
    first = torch.zeros(1, num_out)
    first[0, rows[0]] = 1
    alone = pull(first)
    rest = alone.clone()
    rest[:, columns[0]] = 0
    if _is_something(rest, alone):
        return None
    tiled = torch.zeros(width, num_out)
    tiled[torch.arange(width).expand(count, width), rows] = 1
    pulled = pull(tiled)
    return torch.stack([pulled[:, column] for column in columns])
