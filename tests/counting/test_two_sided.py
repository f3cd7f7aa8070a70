"""The polynomial in T agrees with counting, beyond the lengths that it was made from."""

from __future__ import annotations

import pytest
from cell_graphs import bidirectional, cell_graph, coupled, stack, two_way_graphs
from hypothesis import given, settings
from hypothesis import strategies as st

from lsc_graph.counting.columns import Exact, sums_to
from lsc_graph.counting.hops import hops_of
from lsc_graph.counting.two_sided import is_polynomial, num_paths
from lsc_graph.layers.cells import DepthEdge


@settings(deadline=None, max_examples=60)
@given(cells=two_way_graphs(plain=True), num_steps=st.integers(1, 60), data=st.data())
def test_the_polynomial_agrees_with_columns(cells, num_steps, data) -> None:
    ids, hops = [layer.id for layer in cells.layers], hops_of(cells)
    assert is_polynomial(hops)
    times = {0: [0], -1: [num_steps - 1], None: range(num_steps)}
    chosen = st.dictionaries(st.sampled_from(ids), st.sampled_from([0, -1, None]), min_size=1)
    sources, targets = data.draw(chosen), data.draw(chosen)
    columns = sums_to(Exact(), ids, hops, num_steps, {k: times[v] for k, v in targets.items()})
    expected = sum(columns[layer][t] for layer, end in sources.items() for t in times[end])
    assert num_paths(ids, hops, num_steps, sources, targets) == expected


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (bidirectional(3), True),
        (stack(3), True),
        (stack(3, lag=1), False),
        (coupled(), False),
        (cell_graph({"a": 1, "b": -1}, [DepthEdge("a", "b", time_pairs=((0, 0),))]), False),
    ],
)
def test_what_is_no_choice_of_ordered_times_is_left_to_others(cells, expected: bool) -> None:
    assert is_polynomial(hops_of(cells)) is expected
