"""Long runs are elided, and what is shown keeps its order."""

from __future__ import annotations

import pytest
from cell_graphs import bidirectional, stack
from hypothesis import given
from hypothesis import strategies as st

from lsc_graph.drawing.layout import MAX_LEVELS, MAX_TIMES, axis_of, layout
from lsc_graph.grid.unroll import GridNode, unroll


@given(st.integers(0, 100), st.integers(3, 20))
def test_an_axis_shows_both_ends_in_order(size: int, most: int) -> None:
    axis = axis_of(range(size), most)
    assert len(axis.at) + axis.hidden == size
    places = list(axis.at.values())
    assert places == sorted(places)
    assert list(axis.at) == sorted(axis.at)
    if size <= most:
        assert axis.gap is None
        assert places == list(range(size))
    else:
        assert len(places) == most - 1
        assert axis.gap not in places
        assert {0, size - 1} <= axis.at.keys()


def test_time_goes_to_the_right_and_depth_upwards() -> None:
    places = layout(unroll(stack(3, 4))).at
    assert len(places) == 12
    assert places[GridNode("l0", 0)] == (0.0, 0.0)
    assert places[GridNode("l2", 3)] == (3.0, 2.0)


def test_layers_of_equal_depth_have_rows_of_their_own() -> None:
    assert len(set(layout(unroll(bidirectional(2, 3))).rows.values())) == 4


@pytest.mark.parametrize(("num_layers", "num_steps"), [(3, 1000), (200, 3)])
def test_a_long_or_deep_grid_stays_small(num_layers: int, num_steps: int) -> None:
    found = layout(unroll(stack(num_layers, num_steps)))
    assert len(found.at) <= MAX_TIMES * MAX_LEVELS
    assert found.times.hidden + found.levels.hidden > 0
