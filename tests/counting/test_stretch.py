"""What follows a rule is carried over to any length; what does not is refused."""

from __future__ import annotations

import pytest
from cell_graphs import cell_graph, stack

from lsc_graph.counting.stretch import stretched
from lsc_graph.errors import UsageError
from lsc_graph.layers.cells import CellGraph, DepthEdge

RULES = {
    "final to all": lambda n: {(n - 1, t) for t in range(n)},
    "all to last": lambda n: {(t, n - 1) for t in range(n)},
    "flip": lambda n: {(t, n - 1 - t) for t in range(n)},
    "all to all": lambda n: {(t, u) for t in range(n) for u in range(n)},
    "both ends": lambda n: {(0, 0), (n - 1, n - 1)},
    "final to first": lambda n: {(n - 1, 0)},
}


def connected_by(pairs, num_steps: int) -> CellGraph:
    return cell_graph({"a": 1, "b": 1}, [DepthEdge("a", "b", time_pairs=tuple(pairs))], num_steps)


@pytest.mark.parametrize("num_steps", [1, 3, 4, 5, 30])
@pytest.mark.parametrize("own", [4, 5, 32])
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_carried_over(rule: str, own: int, num_steps: int) -> None:
    found = stretched(connected_by(RULES[rule](own), own), num_steps)
    assert found.num_steps == num_steps
    assert set(found.depth_edges[0].time_pairs or ()) == RULES[rule](num_steps)


@pytest.mark.parametrize("pairs", [{(1, 2)}, {(t, 5) for t in range(7)}, {(0, 0), (3, 4)}])
def test_what_follows_no_rule_is_refused(pairs) -> None:
    with pytest.raises(UsageError, match="one number of steps only"):
        stretched(connected_by(pairs, 8), 9)


def test_over_few_steps_no_rule_is_seen() -> None:
    with pytest.raises(UsageError, match="one number of steps only"):
        stretched(connected_by({(2, 0)}, 3), 9)


def test_the_same_length_needs_no_rule_and_lags_hold_for_any() -> None:
    odd = connected_by({(1, 2)}, 8)
    assert stretched(odd, 8) is odd
    assert stretched(stack(3, 8), 100) == stack(3, 100)
