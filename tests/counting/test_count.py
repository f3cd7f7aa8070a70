"""Counts by every method agree with the unrolled DAG, and each method is taken where it is said to be."""

from __future__ import annotations

import math
import time
from itertools import pairwise

import pytest
from cell_graphs import (
    bidirectional,
    cell_graph,
    counted_on_the_grid,
    coupled,
    one_way_graphs,
    some_ends,
    stack,
    two_way_graphs,
    with_terminals,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from lsc_graph.counting import count as module
from lsc_graph.counting.count import Method, count_paths, log10_path_sum, paths_from_each_time, paths_through
from lsc_graph.counting.ends import Ends, at_steps, first_ends, last_ends
from lsc_graph.errors import LimitExceededError, UsageError
from lsc_graph.grid.paths import log10_path_sums, num_paths_from_each
from lsc_graph.grid.unroll import GridNode, first_states, last_states, unroll
from lsc_graph.layers.cells import DepthEdge


@settings(deadline=None, max_examples=300)
@given(cells=st.one_of(one_way_graphs(), two_way_graphs()), data=st.data())
def test_counts_agree_with_the_unrolled_grid(cells, data) -> None:
    size = cells.num_steps
    sources, targets = some_ends(data.draw, cells, size), some_ends(data.draw, cells, size)
    found = count_paths(cells, size, sources, targets)
    assert found.exact == counted_on_the_grid(cells, size, sources, targets)
    assert found.log10 == (math.log10(found.exact) if found.exact else None)


@settings(deadline=None, max_examples=100)
@given(cells=st.one_of(one_way_graphs(), two_way_graphs()), data=st.data())
def test_log_sums_agree_with_the_unrolled_grid(cells, data) -> None:
    size = cells.num_steps
    sources, targets = some_ends(data.draw, cells, size), some_ends(data.draw, cells, size)
    weights = {
        (u.id, v.id): data.draw(st.one_of(st.just(-math.inf), st.floats(-2, 2)))
        for u in cells.layers
        for v in cells.layers
    }
    starts, ends = (
        {GridNode(end.layer, t) for end in ends for t in end.times(size)} for ends in (sources, targets)
    )
    sums = log10_path_sums(unroll(cells), ends, lambda u, v, _: weights[u.layer, v.layer])
    direct = math.fsum(10 ** sums[node] for node in starts)
    found = log10_path_sum(cells, size, sources, targets, lambda hop: weights[hop.source, hop.target])
    assert found == pytest.approx(math.log10(direct) if direct else -math.inf, abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(cells=two_way_graphs(plain=True), num_steps=st.integers(1, 40), data=st.data())
def test_both_directions_agree_with_the_unrolled_grid_at_any_length(cells, num_steps, data) -> None:
    ends = st.sampled_from([0, -1, None])
    ids = st.sampled_from([layer.id for layer in cells.layers])
    sources, targets = ([Ends(data.draw(ids), data.draw(ends))] for _ in range(2))
    expected = counted_on_the_grid(cells, num_steps, sources, targets)
    assert count_paths(cells, num_steps, sources, targets).exact == expected


@pytest.mark.parametrize("num_steps", [1, 2, 7, 50, 10**6])
def test_two_bidirectional_levels_have_four_paths_a_step(num_steps: int) -> None:
    cells = bidirectional(2)
    found = count_paths(cells, num_steps, first_ends(cells), last_ends(cells))
    assert (found.exact, found.method) == (4 * num_steps, Method.POLYNOMIAL)


def test_a_deep_bidirectional_stack_is_immediate_at_a_million_steps() -> None:
    cells = bidirectional(10)
    start = time.perf_counter()
    found = count_paths(cells, 10**6, first_ends(cells), last_ends(cells))
    assert time.perf_counter() - start < 5.0
    logs = log10_path_sum(cells, 10**6, first_ends(cells), last_ends(cells), lambda hop: 0.0)
    assert logs == pytest.approx(found.log10, rel=1e-9)


@pytest.mark.parametrize("num_steps", [1, 2, 9])
@pytest.mark.parametrize("cells", [stack(3), bidirectional(3), stack(2, time_step=-1), stack(2, time_step=0)])
def test_first_and_last_ends_are_the_first_and_last_states(cells, num_steps: int) -> None:
    for ends, states in ((first_ends, first_states), (last_ends, last_states)):
        there = at_steps(cells, num_steps)
        found = {GridNode(end.layer, t) for end in ends(there) for t in end.times(num_steps)}
        assert found == set(states(there))


def test_input_to_output_follows_the_closed_forms() -> None:
    for num_layers in (1, 2, 5):
        cells = with_terminals(stack(num_layers))
        for dt in (0, 1, 30, 10**5):
            source, size = [Ends("input:x", 0)], dt + 1
            last = count_paths(cells, size, source, [Ends("output:y", -1)])
            every = count_paths(cells, size, source, [Ends("output:y", None)])
            assert last.exact == math.comb(num_layers - 1 + dt, dt)
            assert every.exact == math.comb(num_layers + dt, num_layers)


def test_a_final_state_that_is_an_output_needs_no_columns() -> None:
    cells = stack(3, 100)
    final = DepthEdge("l2", "out", time_pairs=((99, 99),))
    whole = cell_graph({"l0": 1, "l1": 1, "l2": 1, "out": 0}, [*cells.depth_edges, final], 100)
    found = count_paths(whole, 100, [Ends("l0", 0)], [Ends("out", -1)])
    assert (found.exact, found.method) == (math.comb(101, 2), Method.TRANSFER)


def test_exponential_counts_have_a_log_at_once_and_digits_when_asked_for(monkeypatch) -> None:
    monkeypatch.setattr(module, "MANY_STEPS", 1000)
    ends = [Ends("a", 0)], [Ends("a", -1), Ends("b", -1)]
    short = count_paths(coupled(), 1500, *ends, exact=False)
    assert short.exact is None
    assert short.log10 == pytest.approx(1499 * math.log10(2), rel=1e-12)
    assert count_paths(coupled(), 1500, *ends).exact == 2**1499


def test_feedback_both_ways_in_time_is_counted_on_the_grid() -> None:
    # Both layers read each other, at listed times only, which makes no circle.
    edges = [DepthEdge("a", "b", time_pairs=((0, 0),)), DepthEdge("b", "a", time_pairs=((1, 2),))]
    cells = cell_graph({"a": 1, "b": 1}, edges, 4)
    found = count_paths(cells, 4, [Ends("a", 0)], [Ends("a", -1)])
    assert (found.exact, found.method) == (2, Method.GRID)


@settings(deadline=None, max_examples=60)
@given(cells=two_way_graphs(), data=st.data())
def test_counts_through_cells_agree_with_enumeration(cells, data) -> None:
    size = cells.num_steps
    sources, targets = some_ends(data.draw, cells, size), some_ends(data.draw, cells, size)
    starts, ends = (
        {GridNode(end.layer, t) for end in chosen for t in end.times(size)} for chosen in (sources, targets)
    )
    grid = unroll(cells)
    to, since = num_paths_from_each(grid, ends), num_paths_from_each(grid.reverse(), starts)
    through = paths_through(cells, size, sources, targets)
    assert {GridNode(id_, t): n for id_, column in through.items() for t, n in enumerate(column)} == {
        node: to[node] * since[node] for node in grid
    }


def test_cells_of_a_column_share_all_paths_of_a_forward_stack() -> None:
    cells = stack(4, 9)
    through = paths_through(cells, 9, [Ends("l0", 0)], [Ends("l3", -1)])
    # Between two times every path takes one time edge, in some layer.
    for t in range(8):
        crossing = sum(
            math.comb(t + depth, depth) * math.comb(8 - t - 1 + 3 - depth, 3 - depth) for depth in range(4)
        )
        assert crossing == math.comb(11, 3)
    assert through["l0"][0] == through["l3"][8] == math.comb(11, 3)


def test_past_inputs_reach_the_output_by_binomially_many_paths() -> None:
    cells = with_terminals(stack(5))
    columns = paths_from_each_time(cells, 40, ["input:x"], [Ends("output:y", -1)])
    assert columns == {"input:x": [math.comb(4 + 39 - t, 4) for t in range(40)]}


@pytest.mark.parametrize("time_", [4, -5])
def test_a_time_that_is_not_there_is_refused(time_: int) -> None:
    with pytest.raises(UsageError, match="no such time"):
        count_paths(stack(2), 4, [Ends("l0", time_)], [Ends("l1", -1)])


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="no such layer"):
        count_paths(stack(2), 4, [Ends("l0", 0)], [Ends("l7", -1)])


def test_listed_times_hold_for_one_number_of_steps() -> None:
    cells = cell_graph({"a": 1, "b": 1}, [DepthEdge("a", "b", time_pairs=((0, 3),))], 4)
    with pytest.raises(UsageError, match="one number of steps only"):
        count_paths(cells, 5, [Ends("a", 0)], [Ends("b", -1)])
    with pytest.raises(UsageError, match="at least 1"):
        count_paths(cells, 0, [Ends("a", 0)], [Ends("b", -1)])


def test_a_table_that_would_be_too_large_is_refused() -> None:
    cells = bidirectional(2)
    with pytest.raises(LimitExceededError, match="column by column"):
        paths_through(cells, 10**8, first_ends(cells), last_ends(cells))
    with pytest.raises(LimitExceededError, match="column by column"):
        count_paths(cells, 10**8, [Ends("f0", 5)], last_ends(cells))


def test_consecutive_lengths_differ_by_the_paths_of_one_layer_less() -> None:
    def number(num_layers: int, size: int) -> int | None:
        cells = stack(num_layers)
        return count_paths(cells, size, [Ends("l0", 0)], [Ends(f"l{num_layers - 1}", -1)]).exact

    for shorter, longer in pairwise(range(1, 30)):
        assert number(4, longer) - number(4, shorter) == number(3, longer)
