"""Columns agree with the unrolled DAG, feedback within one direction included."""

from __future__ import annotations

import math

import pytest
from cell_graphs import cell_graph, coupled, one_way_graphs, stack, two_way_graphs
from hypothesis import given, settings
from hypothesis import strategies as st

from lsc_graph.counting.columns import Exact, Log10, sums_from, sums_to
from lsc_graph.counting.hops import hops_of
from lsc_graph.errors import AnalysisError
from lsc_graph.grid.paths import num_paths_from_each
from lsc_graph.grid.unroll import GridNode, unroll
from lsc_graph.layers.cells import DepthEdge


@settings(deadline=None, max_examples=150)
@given(cells=st.one_of(one_way_graphs(), two_way_graphs()), data=st.data())
def test_counts_of_all_cells_agree_with_the_grid(cells, data) -> None:
    size, ids = cells.num_steps, [layer.id for layer in cells.layers]
    chosen = st.dictionaries(st.sampled_from(ids), st.sets(st.integers(0, size - 1)))
    ends, grid, hops = data.draw(chosen), unroll(cells), hops_of(cells)
    nodes = [GridNode(layer, t) for layer, times in ends.items() for t in times]
    for columns, expected in (
        (sums_to(Exact(), ids, hops, size, ends), num_paths_from_each(grid, nodes)),
        (sums_from(Exact(), ids, hops, size, ends), num_paths_from_each(grid.reverse(), nodes)),
    ):
        assert {GridNode(i, t): n for i, column in columns.items() for t, n in enumerate(column)} == expected


@settings(deadline=None, max_examples=100)
@given(cells=st.one_of(one_way_graphs(), two_way_graphs()))
def test_logs_of_counts_are_the_counts(cells) -> None:
    size, ids, hops = cells.num_steps, [layer.id for layer in cells.layers], hops_of(cells)
    ends = {ids[-1]: range(size)}
    exact, logs = (sums_to(algebra, ids, hops, size, ends) for algebra in (Exact(), Log10()))
    for layer in ids:
        expected = [math.log10(n) if n else -math.inf for n in exact[layer]]
        assert logs[layer].tolist() == pytest.approx(expected, abs=1e-12)


def test_weights_far_from_one_keep_their_digits_over_many_steps() -> None:
    size, hops = 10_000, hops_of(stack(2))
    columns = sums_to(Log10(lambda hop: -0.5), ["l0", "l1"], hops, size, {"l1": [size - 1]})
    assert columns["l0"][0] == pytest.approx(math.log10(size) - 0.5 * size, rel=1e-12)


def test_feedback_doubles_the_paths_with_each_step() -> None:
    columns = sums_to(Exact(), "ab", hops_of(coupled()), 9, {"a": [8], "b": [8]})
    assert columns["a"] == [2 ** (8 - t) for t in range(9)]


@pytest.mark.parametrize(
    ("edges", "what"),
    [
        ([DepthEdge("a", "b", 1), DepthEdge("b", "a", -1)], "both ways"),
        ([DepthEdge("a", "b"), DepthEdge("b", "a", time_pairs=((0, 1),))], "both ways"),
        ([DepthEdge("a", "b"), DepthEdge("b", "a")], "within one step"),
    ],
)
def test_feedback_that_has_no_order_is_refused(edges: list[DepthEdge], what: str) -> None:
    hops = hops_of(cell_graph({"a": 1, "b": 1}, edges))
    with pytest.raises(AnalysisError, match=what):
        sums_to(Exact(), "ab", hops, 4, {"a": [3]})
