"""Retiming against brute force over all small assignments."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsc_graph.recurrence.unrolled.lanes import Lane, LaneRead
from lsc_graph.recurrence.unrolled.retiming import retime

Edges = list[tuple[int, int, int]]


def lanes_of(count: int, edges: Edges) -> list[Lane]:
    """Lanes in a ring 0 <- 1 <- ... <- 0, with further reads (reader, source, shift)."""
    lanes = [Lane({}) for _ in range(count)]
    for position, (reader, source, shift) in enumerate(edges):
        lanes[reader].reads[position] = LaneRead(lanes[source], 0, shift)
    return lanes


def cost(
    offsets: tuple[int, ...], edges: Edges, sizes: list[int], wishes: list[int]
) -> tuple[int, int] | None:
    """(distance from the wishes, elements handed on), or None if a value is read before it is there."""
    lags: dict[int, int] = dict.fromkeys(range(len(offsets)), 0)
    for reader, source, shift in edges:
        lag = shift + offsets[reader] - offsets[source]
        if lag < 0:
            return None
        lags[source] = max(lags[source], lag)
    distance = sum(abs(offset - wish) for offset, wish in list(zip(offsets, wishes, strict=True))[1:])
    return distance, sum(sizes[lane] * lag for lane, lag in lags.items())


@st.composite
def rings(draw: st.DrawFn) -> tuple[int, Edges, list[int], list[int]]:
    count = draw(st.integers(2, 4))
    edges = [(lane, (lane + 1) % count, int(lane == count - 1)) for lane in range(count)]
    for _ in range(draw(st.integers(0, 3))):
        reader, source = draw(st.integers(0, count - 1)), draw(st.integers(0, count - 1))
        edges.append((reader, source, draw(st.integers(0 if reader < source else 1, 2))))
    sizes = draw(st.lists(st.integers(1, 5), min_size=count, max_size=count))
    wishes = draw(st.lists(st.integers(-2, 1), min_size=count, max_size=count))
    return count, edges, sizes, wishes


@settings(max_examples=150, deadline=None)
@given(rings())
def test_no_assignment_is_closer_to_the_wishes_or_hands_on_less(
    ring: tuple[int, Edges, list[int], list[int]],
) -> None:
    count, edges, sizes, wishes = ring
    lanes = lanes_of(count, edges)
    found = tuple(retime(lanes, lanes[0], sizes, wishes))
    assert found[0] == 0
    every = [(0, *rest) for rest in itertools.product(range(-4, 5), repeat=count - 1)]
    costs = [own for offsets in every if (own := cost(offsets, edges, sizes, wishes)) is not None]
    assert cost(found, edges, sizes, wishes) == min(costs)


@pytest.mark.parametrize(("wish", "expected"), [(-1, -1), (0, 0)])
def test_where_nothing_else_decides_the_wish_does(wish: int, expected: int) -> None:
    lanes = lanes_of(2, [(0, 1, 0), (1, 0, 1)])
    assert retime(lanes, lanes[0], [1, 1], [0, wish]) == [0, expected]
