"""Retiming against brute force over all small assignments."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsc_graph.recurrence.unrolled.lanes import Lane, LaneRead
from lsc_graph.recurrence.unrolled.retiming import Optimum, retime

Edges = list[tuple[int, int, int]]
Ranges = list[tuple[int, int]]


def lanes_of(count: int, edges: Edges) -> list[Lane]:
    """Lanes in a ring 0 <- 1 <- ... <- 0, with further reads (reader, source, shift)."""
    lanes = [Lane({}) for _ in range(count)]
    for position, (reader, source, shift) in enumerate(edges):
        lanes[reader].reads[position] = LaneRead(lanes[source], 0, shift)
    return lanes


def cost(offsets: tuple[int, ...], edges: Edges, costs: list[int], ranges: Ranges) -> tuple[int, int] | None:
    """(steps outside of the ranges, what handing on costs), or None if a value is read before it is there."""
    lags: dict[int, int] = dict.fromkeys(range(len(offsets)), 0)
    for reader, source, shift in edges:
        lag = shift + offsets[reader] - offsets[source]
        if lag < 0:
            return None
        lags[source] = max(lags[source], lag)
    pairs = zip(offsets, ranges, strict=True)
    outside = sum(max(low - offset, 0) + max(offset - high, 0) for offset, (low, high) in pairs)
    return outside, sum(costs[lane] * lag for lane, lag in lags.items())


@st.composite
def rings(draw: st.DrawFn) -> tuple[int, Edges, list[int], Ranges]:
    count = draw(st.integers(2, 4))
    edges = [(lane, (lane + 1) % count, int(lane == count - 1)) for lane in range(count)]
    for _ in range(draw(st.integers(0, 3))):
        reader, source = draw(st.integers(0, count - 1)), draw(st.integers(0, count - 1))
        edges.append((reader, source, draw(st.integers(0 if reader < source else 1, 2))))
    costs = draw(st.lists(st.integers(1, 5), min_size=count, max_size=count))
    lows = draw(st.lists(st.integers(-2, 1), min_size=count, max_size=count))
    widths = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    return count, edges, costs, [(low, low + width) for low, width in zip(lows, widths, strict=True)]


def best(count: int, edges: Edges, costs: list[int], ranges: Ranges) -> list[tuple[int, ...]]:
    """All the best assignments among the small ones."""
    every = list(itertools.product(range(-4, 4), repeat=count))
    known = {offsets: cost(offsets, edges, costs, ranges) for offsets in every}
    lowest = min(own for own in known.values() if own is not None)
    return [offsets for offsets, own in known.items() if own == lowest]


def optimum(count: int, edges: Edges, costs: list[int], ranges: Ranges) -> Optimum:
    return retime(lanes_of(count, edges), costs, ranges, price=100 * sum(costs))


@settings(max_examples=60, deadline=None)
@given(rings())
def test_the_earliest_and_the_latest_of_the_best_assignments_are_found(
    ring: tuple[int, Edges, list[int], Ranges],
) -> None:
    every, found = best(*ring), optimum(*ring)
    assert found.earliest() == [min(column) for column in zip(*every, strict=True)]
    assert found.latest() == [max(column) for column in zip(*every, strict=True)]


@settings(max_examples=60, deadline=None)
@given(rings())
def test_loose_groups_may_each_be_late_whatever_the_others_are(
    ring: tuple[int, Edges, list[int], Ranges],
) -> None:
    every, found = set(best(*ring)), optimum(*ring)
    early, late, groups = found.earliest(), found.latest(), found.loose()
    assert sorted(lane for group in groups for lane in group) == [
        lane for lane, pair in enumerate(zip(early, late, strict=True)) if pair[0] != pair[1]
    ]
    for chosen in itertools.product((False, True), repeat=len(groups)):
        moved = {lane for group, is_late in zip(groups, chosen, strict=True) if is_late for lane in group}
        assert tuple(late[lane] if lane in moved else early[lane] for lane in range(ring[0])) in every


@pytest.mark.parametrize("offset", [-1, 0])
def test_where_nothing_else_decides_the_range_does(offset: int) -> None:
    found = optimum(2, [(0, 1, 0), (1, 0, 1)], [1, 1], [(0, 0), (offset, offset)])
    assert found.earliest() == found.latest() == [0, offset]
