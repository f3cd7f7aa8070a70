"""Every edge of the grid is in exactly one hop."""

from __future__ import annotations

from collections import Counter

import pytest
from cell_graphs import bidirectional, cell_graph, coupled, one_way_graphs, skips, stack, two_way_graphs
from hypothesis import given, settings
from hypothesis import strategies as st

from lsc_graph.counting.hops import between, direction, feeds_back, groups_of, hops_of
from lsc_graph.grid.unroll import GridNode, unroll
from lsc_graph.layers.cells import DepthEdge


def edges_of(hops, num_steps: int) -> Counter:
    return Counter(
        (GridNode(hop.source, t), GridNode(hop.target, u))
        for hop in hops
        for t, u in (hop.pairs or [(t, t + hop.lag) for t in range(num_steps)])
        if 0 <= u < num_steps
    )


@settings(deadline=None)
@given(st.one_of(one_way_graphs(), two_way_graphs()))
def test_hops_are_the_edges_of_the_grid_once_each(cells) -> None:
    assert edges_of(hops_of(cells), cells.num_steps) == Counter(list(unroll(cells).edges))


def test_edges_that_are_given_twice_are_one() -> None:
    pairs = ((0, 0), (1, 1), (0, 2), (0, 2))
    edges = [DepthEdge("a", "b"), DepthEdge("a", "b"), DepthEdge("a", "b", time_pairs=pairs)]
    cells = cell_graph({"a": 1, "b": 1}, edges)
    assert edges_of(hops_of(cells), 4) == Counter(list(unroll(cells).edges))


@settings(deadline=None)
@given(st.one_of(one_way_graphs(), two_way_graphs()))
def test_reversed_hops_are_the_edges_of_the_reversed_grid(cells) -> None:
    reversed_hops = [hop.reversed() for hop in hops_of(cells)]
    assert edges_of(reversed_hops, cells.num_steps) == Counter(list(unroll(cells).reverse().edges))


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (stack(2), 1),
        (stack(2, time_step=-1), -1),
        (stack(2, time_step=0), 1),
        (bidirectional(1), None),
        (cell_graph({"a": 1, "b": 1}, [DepthEdge("a", "b", time_pairs=((0, 0),))]), None),
    ],
)
def test_the_direction_is_that_of_all_hops(cells, expected: int | None) -> None:
    assert direction(hops_of(cells)) == expected


def test_only_what_lies_between_is_kept() -> None:
    hops = between(hops_of(skips(6)), ["l1"], ["l3"])
    assert {layer for hop in hops for layer in (hop.source, hop.target)} == {"l1", "l2", "l3"}
    assert between(hops_of(stack(3)), ["l2"], ["l0"]) == ()


def test_groups_are_in_the_order_of_the_flow() -> None:
    cells = cell_graph(
        {"a": 1, "b": 1, "c": 1}, [DepthEdge("a", "b"), DepthEdge("b", "a", 1), DepthEdge("c", "a")]
    )
    assert groups_of("abc", hops_of(cells)) == [("c",), ("a", "b")]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (stack(3), False),
        (bidirectional(3), False),
        (skips(4), False),
        (coupled(), True),
        (cell_graph({"a": 1}, [DepthEdge("a", "a", 2)]), True),
    ],
)
def test_feedback_is_seen(cells, expected: bool) -> None:
    assert feeds_back(hops_of(cells)) is expected
