"""Packed weights are cut into gates by their shapes."""

from __future__ import annotations

import numpy as np
import pytest

from lsc_graph.pretraining.gate_blocks import gate_blocks


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        ((1, 64, 8), 4),  # LSTM, H = 16
        ((2, 48, 16), 6),  # GRU in two directions
        ((64, 16), 4),  # torch's weight_hh
        ((8, 64), 4),  # transposed
        ((16, 16), 1),
        ((16,), 1),
        ((2, 128), 16),  # biases W and R of two directions
        ((10, 10), 1),
    ],
)
def test_blocks(shape: tuple[int, ...], count: int) -> None:
    assert len(gate_blocks(shape, {16})) == count


@pytest.mark.parametrize("shape", [(1, 64, 8), (2, 48, 16), (2, 128), (3, 16, 16), (7, 5)])
def test_the_blocks_cover_every_element_once(shape: tuple[int, ...]) -> None:
    seen = np.zeros(shape, int)
    for block in gate_blocks(shape, {16}):
        seen[block] += 1
    assert (seen == 1).all()


def test_an_axis_is_cut_where_the_model_does_so() -> None:
    blocks = gate_blocks((20, 48), {16}, {0: (4,)})
    assert [(rows.start, rows.stop) for rows, _ in blocks[::3]] == [(0, 4), (4, 20)]
    assert len(blocks) == 2 * 3
