"""With the targets no path sum exceeds 1, and in plain stacks they are the paper's."""

from __future__ import annotations

import math

import pytest
from cell_graphs import (
    bidirectional,
    cell_graph,
    one_way_graphs,
    skips,
    some_ends,
    stack,
    two_way_graphs,
    with_terminals,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from lsc_graph.counting import targets as module
from lsc_graph.counting.ends import Ends
from lsc_graph.counting.targets import balanced_targets, expected_uses, unbalanced_targets
from lsc_graph.errors import UsageError
from lsc_graph.grid.paths import log10_path_sums
from lsc_graph.grid.unroll import GridNode, unroll
from lsc_graph.layers.cells import DepthEdge


def largest_sum(cells, targets, p: float) -> float:
    """The largest sum over paths between any two states of the p-th powers of their products."""
    grid = unroll(cells)
    logs: dict[tuple[GridNode, GridNode], float] = {}
    for hop, weight in targets.items():
        pairs = hop.pairs or [(t, t + hop.lag) for t in range(cells.num_steps)]
        for t, u in pairs:
            edge = GridNode(hop.source, t), GridNode(hop.target, u)
            logs[edge] = p * math.log10(weight) if weight else -math.inf
    sums = (log10_path_sums(grid, [end], lambda u, v, _: logs[u, v]) for end in grid)
    return max(max(found.values()) for found in sums)


@settings(deadline=None, max_examples=60)
@given(cells=two_way_graphs(), p=st.floats(1, 2))
def test_no_path_sum_exceeds_one_with_balanced_targets(cells, p: float) -> None:
    assert largest_sum(cells, balanced_targets(cells, p), p) <= 1e-9


@settings(deadline=None, max_examples=60)
@given(cells=two_way_graphs(plain=True), p=st.floats(1, 2))
def test_no_path_sum_exceeds_one_with_unbalanced_targets(cells, p: float) -> None:
    assert largest_sum(cells, unbalanced_targets(cells, cells.num_steps, p), p) <= 1e-9


@pytest.mark.parametrize(("p", "half"), [(1.0, 0.5), (2.0, 0.5**0.5)])
def test_the_balanced_targets_of_a_plain_stack_are_one_half_and_its_root(p: float, half: float) -> None:
    targets = balanced_targets(with_terminals(stack(4)), p)
    weights = [w for hop, w in targets.items() if hop.source != "input:x"]
    assert weights == pytest.approx([half] * len(weights))


@pytest.mark.parametrize("num_steps", [1, 7, 60])
@pytest.mark.parametrize("num_layers", [1, 3, 10])
def test_the_unbalanced_targets_of_a_plain_stack_are_the_papers(num_layers: int, num_steps: int) -> None:
    targets = unbalanced_targets(with_terminals(stack(num_layers)), num_steps)
    for hop, weight in targets.items():
        if hop.source != "input:x":
            part = num_steps if hop.kind == "time" else num_layers
            assert weight == pytest.approx(part / (num_steps + num_layers))


def test_three_ways_on_get_a_third_each() -> None:
    targets = balanced_targets(skips(5))
    assert [w for hop, w in targets.items() if hop.source == "l1"] == pytest.approx([1 / 3] * 3)


def test_expected_uses_add_up_to_the_edges_of_a_path() -> None:
    uses = expected_uses(stack(4, 9), [Ends("l0", 0)], [Ends("l3", -1)])
    assert sum(n for hop, n in uses.items() if hop.kind == "time") == 8
    assert {n for hop, n in uses.items() if hop.kind == "depth"} == {1}


@settings(deadline=None, max_examples=60)
@given(cells=one_way_graphs(), data=st.data())
def test_expected_uses_are_the_same_cell_by_cell_and_by_marked_paths(cells, data) -> None:
    size, threshold = cells.num_steps, module.MANY_CELLS
    sources, targets = some_ends(data.draw, cells, size), some_ends(data.draw, cells, size)
    sources, targets = ([*{e.normal(size).layer: e for e in ends}.values()] for ends in (sources, targets))
    by_cells = expected_uses(cells, sources, targets)
    module.MANY_CELLS = 0
    try:
        assert expected_uses(cells, sources, targets) == by_cells
    finally:
        module.MANY_CELLS = threshold


def test_unbalanced_targets_of_a_million_steps_are_immediate() -> None:
    targets = unbalanced_targets(with_terminals(stack(5)), 10**6)
    time_weights = [w for hop, w in targets.items() if hop.kind == "time"]
    assert time_weights == pytest.approx([10**6 / (10**6 + 5)] * 5, rel=1e-12)


def test_what_is_handed_to_every_step_is_shared_among_the_steps() -> None:
    handed = DepthEdge("a", "b", time_pairs=tuple((3, t) for t in range(4)))
    cells = cell_graph({"a": 1, "b": 1}, [handed])
    targets = balanced_targets(cells)
    assert {hop.kind: w for hop, w in targets.items() if hop.source == "a"} == {"time": 1 / 5, "depth": 1 / 5}
    assert largest_sum(cells, targets, 1.0) <= 1e-9


def test_an_exponent_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        balanced_targets(bidirectional(2), 0.5)
