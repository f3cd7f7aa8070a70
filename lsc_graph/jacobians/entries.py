"""Batches inside states: the Jacobians of layers that hold several independent entries, entry by entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lsc_graph.layers.cells import Layer, size

# Entries whose Jacobians differ from zero by less than this, relative to the largest element, do not meet.
_NOTHING = 1e-6
_MAX_ELEMENTS = 2**23


def entries_of(layer: Layer, axes: Sequence[int]) -> Tensor:
    """Where the elements of each entry lie in the flattened state of a layer [B, m].

    Args:
        layer: its states all have as many entries.
        axes: which axis of each state counts the entries.
    """
    found, start = [], 0
    for state, axis in zip(layer.states, axes, strict=True):
        places = start + torch.arange(size(state.shape)).reshape(state.shape)
        found.append(places.movedim(axis, 0).reshape(state.shape[axis], -1))
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
    rows, columns = rows.to(matrices.device), columns.to(matrices.device)
    own = torch.zeros(matrices.shape[1:], dtype=torch.bool, device=matrices.device)
    for row, column in zip(rows, columns, strict=True):
        own[row[:, None], column[None]] = True
    largest = matrices.abs().amax() if matrices.numel() else 0.0
    # Part by part: a copy of all of them takes more memory than anything else.
    for part in torch.split(matrices, max(1, _MAX_ELEMENTS // max(1, own.numel()))):
        if _is_something(part.masked_fill(own, 0), largest):
            return None
    return [matrices[:, row[:, None], column[None]] for row, column in zip(rows, columns, strict=True)]


def _is_something(rest: Tensor, largest: Tensor | float) -> bool:
    return bool(rest.numel()) and bool(rest.abs().max() > _NOTHING * largest)


def pulled_blocks(
    pull: Callable[[Tensor], Tensor], like: Tensor, num_points: int, rows: Tensor, columns: Tensor
) -> Tensor | None:
    """The block [P, B, m_out, m_in] of each entry, by cotangents of one element of every entry at once.

    Others, of some entries alone, have to leave the rest at zero.

    Args:
        pull: cotangents [P, K, n_out] to [P, K, n_in].
        like: of their type, where they are.
        num_points: P.
        rows, columns: where the elements of each entry lie [B, m].

    Returns:
        None if entries meet.
    """
    if len(rows) != len(columns):
        return None
    rows, columns = rows.to(like.device), columns.to(like.device)
    (count, width), groups = rows.shape, _told_apart(len(rows)).to(like.device)
    given = like.new_zeros(width + len(groups), int(rows.max()) + 1)
    given[torch.arange(width, device=like.device).expand(count, width), rows] = 1
    values = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0)).to(like)
    for number, group in enumerate(groups, width):
        given[number, rows[group]] = values[group]
    pulled = pull(given.expand(num_points, -1, -1))
    alone = pulled[:, width:]
    for number, group in enumerate(groups):
        if _is_something(alone[:, number, columns[~group]], alone.abs().amax()):
            return None
    return torch.stack([pulled[:, :width, column] for column in columns], 1)


def _told_apart(count: int) -> Tensor:
    """Groups of entries [G, B], as booleans: of any two entries each is in one without the other."""
    bits = torch.arange(max(1, count - 1).bit_length())[:, None]
    has_bit = (torch.arange(count) >> bits) % 2 == 1
    return torch.cat([has_bit, ~has_bit])
