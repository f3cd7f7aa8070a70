"""The part of a depth Jacobian between the states that carry the gradient in depth."""

from __future__ import annotations

import torch
from torch import Tensor

from lsc_graph.layers.cells import Layer, size


def active_indices(
    blocks: Tensor, source: Layer, target: Layer, exposed: frozenset[str]
) -> tuple[list[int], list[int], str]:
    """Rows and columns of the active block of M_depth [P, n_target, n_source], and which states they are.

    Rows are the target's exposed states, columns those of the source's that any of the blocks reads.
    """
    rows, row_names = _indices(target, exposed)
    are_read = torch.stack([blocks[:, :, start:end].any() for start, end in _ranges(source)]).tolist()
    fed = {state.name for state, is_read in zip(source.states, are_read, strict=True) if is_read}
    columns, column_names = _indices(source, frozenset(fed))
    return rows, columns, f"{column_names} -> {row_names}, {len(rows)} x {len(columns)}"


def _ranges(layer: Layer) -> list[tuple[int, int]]:
    """Where each state lies in the layer's flattened state."""
    ranges, start = [], 0
    for state in layer.states:
        ranges.append((start, start + size(state.shape)))
        start = ranges[-1][1]
    return ranges


def _indices(layer: Layer, names: frozenset[str]) -> tuple[list[int], str]:
    """Positions of the named states (all of them if none is named), and their short names."""
    chosen = [
        (state, bounds)
        for state, bounds in zip(layer.states, _ranges(layer), strict=True)
        if not names or state.name in names
    ]
    indices = [index for _, (start, end) in chosen for index in range(start, end)]
    return indices, "+".join(state.name.rsplit(".", 1)[-1] for state, _ in chosen)
