"""Layouts of units: every element of the state has its place, and usual ways to pack variables are there."""

from __future__ import annotations

import pytest
import torch

from lsc_graph.jacobians.structure import UnitLayout, unit_layouts

SHAPES = [[(1, 6)], [(1, 6), (1, 6)], [(1, 6, 2)], [(2, 1, 6)], [(2, 12)], [(5,)], [(1, 2), (1, 2), (1, 2)]]


@pytest.mark.parametrize("shapes", SHAPES)
def test_every_layout_places_every_element_once(shapes: list[tuple[int, ...]]) -> None:
    size = sum(torch.Size(shape).numel() for shape in shapes)
    layouts = list(unit_layouts(shapes))
    assert [layout.width for layout in layouts] == sorted(layout.width for layout in layouts)
    assert layouts[0].width == len(shapes)
    for layout in layouts:
        assert layout.width * layout.units == size
        assert sorted(layout.places.flatten().tolist()) == list(range(size))
        for unit, places in enumerate(layout.places.T):
            assert layout.unit_of()[places].tolist() == [unit] * layout.width


def has(shapes: list[tuple[int, ...]], places: torch.Tensor) -> bool:
    return any(torch.equal(layout.places, places) for layout in unit_layouts(shapes))


def test_variables_may_be_pairs_halves_or_states_of_their_own() -> None:
    twelve = torch.arange(12)
    halves, pairs = twelve.reshape(2, 6), twelve.reshape(6, 2).T
    assert has([(1, 6), (1, 6)], halves)
    for shape in ((1, 12), (2, 1, 6), (2, 6)):
        assert has([shape], halves)
    for shape in ((1, 6, 2), (1, 12), (12,)):
        assert has([shape], pairs)
    # Two entries, of each the halves: entry and unit count on, and the variable is the half.
    assert has([(2, 6)], twelve.reshape(2, 2, 3).transpose(0, 1).reshape(2, 6))


def test_states_of_different_sizes_have_no_common_units() -> None:
    assert not list(unit_layouts([(1, 6), (1, 5)]))
    assert isinstance(next(unit_layouts([(1, 6), (6, 1)])), UnitLayout)
