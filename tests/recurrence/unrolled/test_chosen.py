"""What a person says of unrolled steps is told apart from what is said of inputs and outputs."""

from __future__ import annotations

import pytest
from unrolled_models import Unroller, layer, stacked, tanh_cell

from lsc_graph.canonical.normalize import normalize
from lsc_graph.errors import UsageError
from lsc_graph.recurrence.unrolled.chosen import Chosen, check_made, told_by_hand
from lsc_graph.recurrence.unrolled.phase import Choice


def test_pairs_are_told_apart_by_what_the_file_computes() -> None:
    net = Unroller()
    rows = layer(net, tanh_cell(net, 3, 4), net.input("x", 4, 1, 3), net.input("h", 1, 4), range(4))
    net.output(stacked(net, rows))
    graph = normalize(net.model(), {"x": (4, 1, 3), "h": (1, 4)}, {}).graph
    pairs = [(rows[1], rows[2]), (rows[1], "none"), ("h", rows[3]), ("h", "none")]
    streaming, chosen = told_by_hand(graph, pairs)
    assert streaming == [("h", rows[3]), ("h", "none")]
    assert chosen == Chosen((Choice(rows[1], rows[2]),), (rows[1],))
    assert chosen.texts == (f"{rows[1]}:{rows[2]}", f"{rows[1]}:none")


def test_what_no_recurrence_has_taken_up_is_refused() -> None:
    cut, other = Choice("a", "b"), Choice("a", "c")
    chosen = Chosen((cut,), ("d",))
    check_made(chosen, [Chosen((cut,)), Chosen((other,), ("d",))])
    with pytest.raises(UsageError, match="--state d:none"):
        check_made(chosen, [Chosen((cut,))])
    with pytest.raises(UsageError, match="--state a:b"):
        check_made(chosen, [Chosen((other,), ("d",))])
