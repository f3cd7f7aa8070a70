"""The depth x time grid: who is connected with whom, and which states are first and last."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsc_graph.errors import AnalysisError, LimitExceededError, UsageError
from lsc_graph.grid import unroll as module
from lsc_graph.grid.unroll import GridNode, depths, first_states, last_states, unroll
from lsc_graph.layers.cells import CellGraph, DepthEdge, Layer

N = GridNode


def layer(id_: str, time_step: int = 1) -> Layer:
    return Layer(id_, f"name of {id_}", None, (), 4, time_step)


def stack(num_layers: int, num_steps: int, lag: int = 0) -> CellGraph:
    ids = [f"l{index}" for index in range(num_layers)]
    edges = tuple(DepthEdge(below, above, lag) for below, above in pairwise(ids))
    return CellGraph(tuple(map(layer, ids)), edges, num_steps)


def cells(layers: Iterable[Layer], edges: Sequence[DepthEdge], num_steps: int = 3) -> CellGraph:
    return CellGraph(tuple(layers), tuple(edges), num_steps)


def bidirectional(num_layers: int, num_steps: int) -> CellGraph:
    layers = [layer(f"{way}{i}", step) for i in range(num_layers) for way, step in (("f", 1), ("b", -1))]
    edges = [
        DepthEdge(f"{below}{i}", f"{above}{i + 1}")
        for i in range(num_layers - 1)
        for below in "fb"
        for above in "fb"
    ]
    return cells(layers, edges, num_steps)


def test_a_stack_gives_the_rectangular_grid() -> None:
    grid = unroll(stack(2, 3))
    time_edges = {(N(id_, t), N(id_, t + 1)) for id_ in ("l0", "l1") for t in range(2)}
    depth_edges = {(N("l0", t), N("l1", t)) for t in range(3)}
    assert set(grid.nodes) == {N(id_, t) for id_ in ("l0", "l1") for t in range(3)}
    assert set(grid.edges) == time_edges | depth_edges


def test_nodes_and_edges_say_what_they_are() -> None:
    grid = unroll(cells([layer("a"), layer("b", 0)], [DepthEdge("a", "b")]))
    assert grid.nodes[N("a", 1)] == {"name": "name of a", "depth": 0, "kind": "recurrent"}
    assert grid.nodes[N("b", 1)] == {"name": "name of b", "depth": 1, "kind": "feed_forward"}
    assert grid.edges[N("a", 0), N("a", 1)] == {"kind": "time", "layer": "a"}
    assert grid.edges[N("a", 1), N("b", 1)] == {"kind": "depth", "source": "a", "target": "b"}


def test_a_layer_without_recurrence_has_no_time_edges() -> None:
    assert not unroll(cells([layer("a", 0)], [])).edges


def test_a_reverse_layer_runs_from_the_last_step_to_the_first() -> None:
    assert set(unroll(cells([layer("a", -1)], [])).edges) == {(N("a", 2), N("a", 1)), (N("a", 1), N("a", 0))}


def test_a_lagged_depth_edge_comes_from_the_step_before() -> None:
    grid = unroll(cells([layer("a", 0), layer("b", 0)], [DepthEdge("a", "b", lag=1)]))
    assert set(grid.edges) == {(N("a", 0), N("b", 1)), (N("a", 1), N("b", 2))}


def test_a_lag_beyond_the_grid_connects_nothing() -> None:
    assert not unroll(cells([layer("a", 0), layer("b", 0)], [DepthEdge("a", "b", lag=7)])).edges


def test_a_negative_lag_comes_from_the_step_after() -> None:
    grid = unroll(cells([layer("a", 0), layer("b", 0)], [DepthEdge("a", "b", lag=-1)]))
    assert set(grid.edges) == {(N("a", 1), N("b", 0)), (N("a", 2), N("b", 1))}


def test_given_time_pairs_are_the_only_connections() -> None:
    edge = DepthEdge("a", "b", time_pairs=((2, 0), (0, 2)))
    grid = unroll(cells([layer("a", 0), layer("b", 0)], [edge]))
    assert set(grid.edges) == {(N("a", 2), N("b", 0)), (N("a", 0), N("b", 2))}


def test_time_pairs_are_refused_for_another_number_of_steps() -> None:
    graph = cells([layer("a"), layer("b")], [DepthEdge("a", "b", time_pairs=((0, 0),))])
    assert unroll(graph, 3).number_of_edges() == 5
    with pytest.raises(UsageError, match="one number of steps only: a -> b"):
        unroll(graph, 4)


def test_another_number_of_steps_can_be_asked_for() -> None:
    grid = unroll(stack(3, 2), 7)
    assert len(grid) == 21
    assert nx.utils.graphs_equal(grid, unroll(stack(3, 7)))


@pytest.mark.parametrize("num_steps", [0, -3])
def test_a_grid_without_steps_is_refused(num_steps: int) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        unroll(stack(2, 5), num_steps)


def test_a_grid_beyond_the_cap_is_refused_before_anything_is_allocated() -> None:
    start = time.perf_counter()
    with pytest.raises(LimitExceededError, match="10 layers x 1000000000 steps"):
        unroll(stack(10, 5), 10**9)
    assert time.perf_counter() - start < 1.0


def test_the_cap_is_the_largest_grid_that_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_GRID_NODES", 12)
    assert len(unroll(stack(3, 4))) == 12
    with pytest.raises(LimitExceededError):
        unroll(stack(3, 5))


def test_a_cycle_within_a_step_is_refused() -> None:
    graph = cells([layer("a"), layer("b")], [DepthEdge("a", "b"), DepthEdge("b", "a")])
    with pytest.raises(AnalysisError, match="within one step") as refused:
        unroll(graph)
    assert refused.value.got in ("a -> b", "b -> a")


def test_a_cycle_through_time_is_refused() -> None:
    edges = [DepthEdge("a", "b", lag=1), DepthEdge("b", "a", lag=-1)]
    with pytest.raises(AnalysisError, match="grid has a cycle") as refused:
        unroll(cells([layer("a"), layer("b")], edges))
    assert "@" in str(refused.value.got)


def test_long_cycles_are_cut_short_in_the_message() -> None:
    ids = [f"l{index}" for index in range(50)]
    edges = [DepthEdge(source, target) for source, target in pairwise([*ids, ids[0]])]
    with pytest.raises(AnalysisError) as refused:
        depths(cells(map(layer, ids), edges))
    assert str(refused.value.got).endswith("...")
    assert len(str(refused.value.got)) < 60


@pytest.mark.parametrize(
    "edge",
    [DepthEdge("a", "nobody"), DepthEdge("nobody", "a"), DepthEdge("a", "b", time_pairs=((0, 3),))],
    ids=["to nobody", "from nobody", "beyond the last step"],
)
def test_an_edge_out_of_the_grid_is_refused(edge: DepthEdge) -> None:
    with pytest.raises(AnalysisError, match="out of the grid") as refused:
        unroll(cells([layer("a"), layer("b")], [edge]))
    assert "@" in str(refused.value.got)


def test_depth_is_the_longest_way() -> None:
    edges = [DepthEdge("a", "b"), DepthEdge("b", "c"), DepthEdge("a", "c"), DepthEdge("a", "d")]
    assert depths(cells(map(layer, "abcd"), edges)) == {"a": 0, "b": 1, "c": 2, "d": 1}


def test_depth_does_not_depend_on_the_order_of_the_layers() -> None:
    graph = cells(map(layer, "cba"), [DepthEdge("b", "c"), DepthEdge("a", "b")])
    assert depths(graph) == {"a": 0, "b": 1, "c": 2}


def test_layers_that_only_see_each_others_past_have_the_same_depth() -> None:
    edges = [DepthEdge("a", "b", lag=1), DepthEdge("b", "a", lag=1)]
    assert depths(cells(map(layer, "ab"), edges)) == {"a": 0, "b": 0}
    assert depths(cells(map(layer, "ab"), edges[::-1])) == {"a": 0, "b": 0}


def test_feedback_from_the_layer_above_one_step_later_leaves_it_above() -> None:
    edges = [DepthEdge("b", "a", lag=1), DepthEdge("a", "b")]
    assert depths(cells(map(layer, "ab"), edges)) == {"a": 0, "b": 1}


def test_a_pipeline_in_which_each_layer_reads_the_step_before_has_depth() -> None:
    assert depths(stack(4, 9, lag=1)) == {"l0": 0, "l1": 1, "l2": 2, "l3": 3}


def test_edges_with_time_pairs_order_the_layers() -> None:
    swapped = DepthEdge("a", "b", time_pairs=((0, 1), (1, 0)))
    assert depths(cells(map(layer, "ab"), [swapped], 2)) == {"a": 0, "b": 1}
    same = DepthEdge("a", "b", time_pairs=((0, 0), (1, 1)))
    assert depths(cells(map(layer, "ab"), [DepthEdge("b", "a", lag=1), same], 2)) == {"a": 0, "b": 1}


def test_first_and_last_states_of_a_stack() -> None:
    assert first_states(stack(3, 5)) == (N("l0", 0),)
    assert last_states(stack(3, 5)) == (N("l2", 4),)


def test_both_directions_have_their_own_first_and_last_states() -> None:
    assert first_states(bidirectional(2, 5)) == (N("f0", 0), N("b0", 4))
    assert last_states(bidirectional(2, 5)) == (N("f1", 4), N("b1", 0))


def test_a_layer_without_recurrence_counts_as_a_forward_one() -> None:
    graph = cells([layer("a", 0), layer("b", 0)], [DepthEdge("a", "b")], 4)
    assert (first_states(graph), last_states(graph)) == ((N("a", 0),), (N("b", 3),))
    single = replace(graph, num_steps=1)
    assert (first_states(single), last_states(single)) == ((N("a", 0),), (N("b", 0),))


def test_all_layers_of_least_and_greatest_depth_count() -> None:
    graph = cells(map(layer, "abcd"), [DepthEdge("a", "c"), DepthEdge("b", "c"), DepthEdge("b", "d")])
    assert first_states(graph) == (N("a", 0), N("b", 0))
    assert last_states(graph) == (N("c", 2), N("d", 2))


@settings(deadline=None)
@given(num_layers=st.integers(1, 6), num_steps=st.integers(1, 8))
def test_a_stack_of_any_size_has_all_its_edges(num_layers: int, num_steps: int) -> None:
    grid = unroll(stack(num_layers, num_steps))
    kinds = [data["kind"] for _, _, data in grid.edges(data=True)]
    assert kinds.count("time") == num_layers * (num_steps - 1)
    assert kinds.count("depth") == (num_layers - 1) * num_steps
    assert nx.is_directed_acyclic_graph(grid)
