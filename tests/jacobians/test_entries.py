"""Blocks of the entries of a batch: from matrices, and from products with them."""

from __future__ import annotations

import pytest
import torch

from lsc_graph.jacobians.entries import among, entries_of, own_blocks, pulled_blocks
from lsc_graph.layers.cells import Layer, size
from lsc_graph.recurrence.site import StateVariable


def layer(*shapes: tuple[int, ...]) -> Layer:
    states = tuple(StateVariable(f"s{i}", shape, "b", "a", None, None) for i, shape in enumerate(shapes))
    return Layer("layer_0", "layer", "recurrence_0", states, sum(map(size, shapes)), 1)


def test_entries_of_several_states_along_different_axes() -> None:
    found = entries_of(layer((2, 3), (1, 2)), [0, 1])
    assert found.tolist() == [[0, 1, 2, 6], [3, 4, 5, 7]]
    assert among(found, [0, 3, 6, 7]).tolist() == [[0, 2], [1, 3]]


def test_entries_of_a_state_without_other_axes_are_single_elements() -> None:
    assert entries_of(layer((3,)), [0]).tolist() == [[0], [1], [2]]


def test_blocks_are_those_of_the_entries_unless_these_meet() -> None:
    rows, columns = entries_of(layer((2, 3)), [0]), entries_of(layer((4, 2)), [1])
    blocks = torch.randn(5, 2, 3, 4)
    whole = torch.zeros(5, 6, 8)
    for entry in range(2):
        whole[:, rows[entry][:, None], columns[entry][None]] = blocks[:, entry]
    found = own_blocks(whole, rows, columns)
    assert found is not None
    torch.testing.assert_close(torch.stack(found, 1), blocks)
    pulled = pulled_blocks(lambda cotangents: cotangents @ whole, whole, 5, rows, columns)
    torch.testing.assert_close(pulled, blocks)


@pytest.mark.parametrize(("reader", "read"), [(0, 1), (1, 0), (2, 1), (0, 2)])
def test_entries_meet_if_any_of_them_reads_another(reader: int, read: int) -> None:
    rows, columns = entries_of(layer((3, 2)), [0]), entries_of(layer((2, 3)), [1])
    whole = torch.zeros(4, 6, 6)
    for entry in range(3):
        whole[:, rows[entry][:, None], columns[entry][None]] = torch.randn(4, 2, 2)
    assert own_blocks(whole, rows, columns) is not None
    whole[3, rows[reader, 0], columns[read, 1]] = 0.1
    assert own_blocks(whole, rows, columns) is None
    assert pulled_blocks(lambda cotangents: cotangents @ whole, whole, 4, rows, columns) is None
