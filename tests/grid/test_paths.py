"""Path counts and path sums agree with enumeration and with closed forms."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, TypeAlias

import networkx as nx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lsc_graph.errors import UsageError
from lsc_graph.grid.paths import (
    log10_of_count,
    log10_path_sums,
    log10_sum,
    num_gradient_paths,
    num_paths_from_each,
)
from lsc_graph.grid.unroll import GridNode, first_states, last_states, unroll
from lsc_graph.layers.cells import CellGraph, DepthEdge, Layer

N = GridNode
Grid: TypeAlias = "nx.DiGraph[GridNode]"


def cell_graph(steps_of: Mapping[str, int], edges: list[DepthEdge], num_steps: int) -> CellGraph:
    layers = tuple(Layer(id_, id_, None, (), 4, step) for id_, step in steps_of.items())
    return CellGraph(layers, tuple(edges), num_steps)


def stack(num_layers: int, num_steps: int, lag: int = 0) -> CellGraph:
    ids = [f"l{index}" for index in range(num_layers)]
    edges = [DepthEdge(below, above, lag) for below, above in pairwise(ids)]
    return cell_graph(dict.fromkeys(ids, 1), edges, num_steps)


def bidirectional(num_layers: int, num_steps: int) -> CellGraph:
    steps_of = {f"{way}{i}": step for i in range(num_layers) for way, step in (("f", 1), ("b", -1))}
    edges = [
        DepthEdge(f"{below}{i}", f"{above}{i + 1}")
        for i in range(num_layers - 1)
        for below in "fb"
        for above in "fb"
    ]
    return cell_graph(steps_of, edges, num_steps)


def count(cells: CellGraph) -> int:
    return num_gradient_paths(unroll(cells), first_states(cells), last_states(cells))


def enumerated(grid: Grid, source: GridNode, target: GridNode) -> list[list[GridNode]]:
    """Every path, one by one."""
    if source == target:
        return [[source]]
    return [[source, *rest] for after in grid.successors(source) for rest in enumerated(grid, after, target)]


def num_enumerated(cells: CellGraph) -> int:
    grid = unroll(cells)
    return sum(len(enumerated(grid, s, t)) for s in first_states(cells) for t in last_states(cells))


@st.composite
def random_dags(draw: st.DrawFn) -> Grid:
    """A DAG of up to 8 nodes whose insertion order is no topological order."""
    size = draw(st.integers(1, 8))
    order = draw(st.permutations([N("l", time) for time in range(size)]))
    pairs = [(a, b) for i, a in enumerate(order) for b in order[i + 1 :]]
    grid: Grid = nx.DiGraph()
    grid.add_nodes_from(N("l", time) for time in range(size))
    for a, b in pairs:
        if draw(st.booleans()):
            grid.add_edge(a, b, weight=draw(st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5])))
    return grid


@settings(deadline=None, max_examples=400)
@given(grid=random_dags(), data=st.data())
def test_counts_agree_with_enumeration_on_random_dags(grid: Grid, data: st.DataObject) -> None:
    some = st.sets(st.sampled_from(list(grid)))
    sources, targets = data.draw(some), data.draw(some)
    expected = {node: sum(len(enumerated(grid, node, end)) for end in targets) for node in grid}
    assert num_paths_from_each(grid, targets) == expected
    assert num_gradient_paths(grid, sources, targets) == sum(expected[source] for source in sources)


@settings(deadline=None)
@given(grid=random_dags(), data=st.data())
def test_path_sums_agree_with_enumeration_on_random_dags(grid: Grid, data: st.DataObject) -> None:
    targets = data.draw(st.sets(st.sampled_from(list(grid))))
    sums = log10_path_sums(grid, targets, log10_weight)
    for node in grid:
        paths = [path for end in targets for path in enumerated(grid, node, end)]
        direct = math.fsum(math.prod(grid.edges[edge]["weight"] for edge in pairwise(path)) for path in paths)
        if direct == 0.0:
            assert sums[node] == -math.inf
        else:
            assert sums[node] == pytest.approx(math.log10(direct), abs=1e-12)


def log10_weight(_tail: GridNode, _head: GridNode, data: Mapping[str, Any]) -> float:
    return math.log10(data["weight"]) if data["weight"] else -math.inf


@settings(deadline=None)
@given(num_layers=st.integers(1, 7), num_steps=st.integers(1, 9))
def test_a_rectangle_has_a_binomial_number_of_paths(num_layers: int, num_steps: int) -> None:
    grid = unroll(stack(num_layers, num_steps))
    counts = num_paths_from_each(grid, [N(f"l{num_layers - 1}", num_steps - 1)])
    for node, number in counts.items():
        dt, dl = num_steps - 1 - node.time, num_layers - 1 - int(node.layer[1:])
        assert number == math.comb(dt + dl, dl)


@settings(deadline=None)
@given(num_layers=st.integers(1, 6), num_steps=st.integers(1, 8))
def test_paths_to_all_outputs_follow_the_hockey_stick(num_layers: int, num_steps: int) -> None:
    grid = unroll(stack(num_layers, num_steps))
    outputs = [N(f"l{num_layers - 1}", time) for time in range(num_steps)]
    dt = num_steps - 1
    assert num_gradient_paths(grid, [N("l0", 0)], outputs) == math.comb(num_layers + dt, num_layers)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7])
def test_two_bidirectional_layers_have_four_paths_a_step(num_steps: int) -> None:
    cells = bidirectional(2, num_steps)
    assert count(cells) == num_enumerated(cells) == 4 * num_steps


@settings(deadline=None)
@given(num_layers=st.integers(1, 3), num_steps=st.integers(1, 4))
def test_bidirectional_stacks_agree_with_enumeration(num_layers: int, num_steps: int) -> None:
    cells = bidirectional(num_layers, num_steps)
    assert count(cells) == num_enumerated(cells)


@pytest.mark.parametrize("num_layers", range(2, 9))
def test_skips_over_one_layer_give_fibonacci_numbers(num_layers: int) -> None:
    ids = [f"l{index}" for index in range(num_layers)]
    edges = [*map(DepthEdge, ids, ids[1:]), *map(DepthEdge, ids, ids[2:])]
    fibonacci = [1, 1, 2, 3, 5, 8, 13, 21]
    assert count(cell_graph(dict.fromkeys(ids, 0), edges, 1)) == fibonacci[num_layers - 1]
    recurrent = cell_graph(dict.fromkeys(ids, 1), edges, 3)
    assert count(recurrent) == num_enumerated(recurrent)


@pytest.mark.parametrize("num_layers", range(1, 9))
def test_dense_connections_double_the_paths_with_each_layer(num_layers: int) -> None:
    ids = [f"l{index}" for index in range(num_layers)]
    edges = [DepthEdge(a, b) for i, a in enumerate(ids) for b in ids[i + 1 :]]
    assert count(cell_graph(dict.fromkeys(ids, 0), edges, 1)) == 2 ** max(num_layers - 2, 0)


@settings(deadline=None)
@given(num_layers=st.integers(1, 4), num_steps=st.integers(1, 8))
def test_in_a_pipeline_each_layer_costs_a_step(num_layers: int, num_steps: int) -> None:
    dl, dt = num_layers - 1, num_steps - 1
    assert count(stack(num_layers, num_steps, lag=1)) == (math.comb(dt, dl) if dt >= dl else 0)


def test_layers_that_see_each_others_past_double_the_paths_with_each_step() -> None:
    edges = [DepthEdge("a", "b", lag=1), DepthEdge("b", "a", lag=1)]
    grid = unroll(cell_graph({"a": 1, "b": 1}, edges, 9))
    assert num_gradient_paths(grid, [N("a", 0)], [N("a", 8), N("b", 8)]) == 2**8


def test_feedback_one_step_later_agrees_with_enumeration() -> None:
    cells = cell_graph({"a": 1, "b": 1}, [DepthEdge("a", "b"), DepthEdge("b", "a", lag=1)], 5)
    assert count(cells) == num_enumerated(cells) > math.comb(5, 1)


def test_a_final_state_handed_to_every_step_multiplies_nothing() -> None:
    handed = DepthEdge("a", "b", time_pairs=tuple((3, time) for time in range(4)))
    assert count(cell_graph({"a": 1, "b": 1}, [handed], 4)) == 4


def test_a_time_flip_between_two_layers_leaves_one_path() -> None:
    flip = DepthEdge("a", "b", time_pairs=tuple((3 - time, time) for time in range(4)))
    cells = cell_graph({"a": 1, "b": 1}, [flip], 4)
    assert count(cells) == num_enumerated(cells) == 4


def test_a_node_that_is_source_and_target_has_one_path() -> None:
    grid = unroll(stack(1, 3))
    assert num_gradient_paths(grid, [N("l0", 1)], [N("l0", 1)]) == 1
    assert num_gradient_paths(grid, [N("l0", 0), N("l0", 1)], [N("l0", 1), N("l0", 2)]) == 4


def test_repeated_sources_and_targets_count_once() -> None:
    grid = unroll(stack(2, 3))
    ends = [N("l1", 2), N("l1", 2)]
    assert num_gradient_paths(grid, [N("l0", 0), N("l0", 0)], ends) == 3


def test_against_the_arrow_of_time_there_is_no_path() -> None:
    assert num_gradient_paths(unroll(stack(2, 3)), [N("l1", 2)], [N("l0", 0)]) == 0


@pytest.mark.parametrize("place", ["source", "target", "target of a sum"])
def test_a_state_that_is_not_in_the_grid_is_refused(place: str) -> None:
    grid, known, unknown = unroll(stack(2, 3)), [N("l0", 0)], [N("l7", 0)]
    ask: dict[str, Callable[[], object]] = {
        "source": lambda: num_gradient_paths(grid, unknown, known),
        "target": lambda: num_gradient_paths(grid, known, unknown),
        "target of a sum": lambda: log10_path_sums(grid, unknown, lambda *_: 0.0),
    }
    with pytest.raises(UsageError, match="l7@0"):
        ask[place]()


def test_counts_beyond_the_floating_point_range_are_exact() -> None:
    number = count(stack(60, 1200))
    assert number == math.comb(1199 + 59, 59)
    dense = 1500
    ids = [f"l{index}" for index in range(dense)]
    fibonacci = cell_graph(
        dict.fromkeys(ids, 0), [*map(DepthEdge, ids, ids[1:]), *map(DepthEdge, ids, ids[2:])], 1
    )
    exact = count(fibonacci)
    assert exact > 10**308
    assert log10_of_count(exact) == pytest.approx(
        dense * math.log10((1 + 5**0.5) / 2) - math.log10(5**0.5), rel=1e-12
    )


def test_the_log_of_a_count_of_thousands_of_digits() -> None:
    assert log10_of_count(10**5000) == 5000.0
    assert log10_of_count(2**30_000) == pytest.approx(30_000 * math.log10(2), rel=1e-15)
    assert log10_of_count(1) == 0.0
    assert log10_of_count(0) is None


@settings(deadline=None)
@given(number=st.integers(1, 10**300))
def test_the_log_of_a_count_is_that_of_a_float(number: int) -> None:
    assert log10_of_count(number) == pytest.approx(math.log10(float(number)), rel=1e-14, abs=1e-14)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (0.9, 1.1), (1.0, 1.0), (1e-30, 1e30)])
def test_the_path_sum_of_a_rectangle_is_count_times_product(a: float, b: float) -> None:
    grid = unroll(stack(5, 40))
    sums = log10_path_sums(
        grid, [N("l4", 39)], lambda u, v, data: math.log10({"time": a, "depth": b}[data["kind"]])
    )
    expected = math.log10(math.comb(43, 4)) + 39 * math.log10(a) + 4 * math.log10(b)
    assert sums[N("l0", 0)] == pytest.approx(expected, abs=1e-9)


def test_path_sums_leave_the_floating_point_range_unharmed() -> None:
    grid = unroll(stack(3, 500))
    for log in (-3.0, 3.0):
        value = log10_path_sums(grid, [N("l2", 499)], lambda *_, log=log: log)[N("l0", 0)]
        assert value == pytest.approx(501 * log + math.log10(math.comb(501, 2)), rel=1e-12)


def test_weights_that_add_up_to_one_at_every_node_keep_every_sum_at_most_one() -> None:
    grid = unroll(bidirectional(4, 12))
    share = {node: -math.log10(max(grid.out_degree(node), 1)) for node in grid}
    sums = log10_path_sums(grid, [N("f3", 11), N("b3", 0)], lambda tail, head, data: share[tail])
    assert max(sums.values()) <= 1e-12


@settings(deadline=None)
@given(logs=st.lists(st.floats(-5, 5), min_size=1, max_size=6))
def test_a_sum_of_logs_is_the_log_of_the_sum(logs: list[float]) -> None:
    assert log10_sum(logs) == pytest.approx(math.log10(math.fsum(10**log for log in logs)), abs=1e-12)


def test_a_sum_of_nothing_is_zero_and_a_nan_is_not_swallowed() -> None:
    assert log10_sum([]) == log10_sum([-math.inf]) == log10_sum([-math.inf, -math.inf]) == -math.inf
    assert log10_sum([-math.inf, 2.0]) == 2.0
    assert log10_sum([math.inf, 2.0]) == math.inf
    for logs in ([math.nan, -math.inf], [-math.inf, math.nan], [1.0, math.nan]):
        assert math.isnan(log10_sum(logs))


@settings(deadline=None)
@given(grid=random_dags())
def test_with_weights_of_one_the_path_sum_is_the_count(grid: Grid) -> None:
    end = next(iter(grid))
    assume(len(grid) > 1)
    counts, sums = num_paths_from_each(grid, [end]), log10_path_sums(grid, [end], lambda *_: 0.0)
    for node in grid:
        expected = log10_of_count(counts[node])
        assert sums[node] == pytest.approx(-math.inf if expected is None else expected, abs=1e-12)


def test_counting_takes_time_in_proportion_to_the_edges() -> None:
    grid = unroll(stack(10, 2000))
    start = time.perf_counter()
    assert num_gradient_paths(grid, [N("l0", 0)], [N("l9", 1999)]) == math.comb(2008, 9)
    assert time.perf_counter() - start < 5.0
