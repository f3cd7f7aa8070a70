"""What a person says of unrolled steps is told apart from what is said of inputs and outputs."""

from __future__ import annotations

import re

import numpy as np
import pytest
from unrolled_models import Network, Unroller, at, layer, stacked, tanh_cell

from lsc_graph.audit_model import audit, inspect
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


def resetting(*, is_given: bool) -> Network:
    """A charge, a smooth spike z that it makes, and what is left of it: v, of which `names` are those."""
    net = Network(is_given=is_given)
    u, leak, one, slope, level = net.weight(4, 4), *(net.constant(number) for number in (0.1, 1.0, 4.0, 0.3))
    bias = net.weight(4)
    v, z, rows, names = net.start("v", 4), net.start("z", 4), list[str](), list[str]()
    for time in range(6):
        kept = v and net.op("Sub", v, net.op("Mul", net.op("Mul", v, v), leak))
        fed_back = z and net.op("MatMul", z, u)
        charge = net.op("Add", net.sum(at(net, net.drives, time), kept, fed_back), bias)
        z = net.op("Sigmoid", net.op("Mul", net.op("Sub", charge, level), slope))
        v = net.op("Mul", charge, net.op("Sub", one, z))
        rows.append(z)
        names.append(v)
    net.done(rows, names)
    return net


def test_a_value_behind_its_own_reset_may_be_the_state_which_is_said_and_chosen_by_hand() -> None:
    """From zeros nothing tells whether v or the charge is handed on; from given states the inputs do."""
    given, folded = resetting(is_given=True), resetting(is_given=False)
    x = np.random.default_rng(0).standard_normal((1, 6, 1, 3)).astype(np.float32)
    zeros = {name: np.zeros((1, 1, 4), np.float32) for name in ("v", "z")}
    (expected,) = audit(given.model(), data={"x": x, **zeros}, num_samples=1).layers
    (said,) = [text for text in inspect(folded.model()).warnings if "nothing in the file tells" in text]
    assert "nothing" not in " ".join(inspect(given.model()).warnings)
    (choice,) = re.findall(r"--state (\w+):(\w+) takes", said)
    (found,) = audit(folded.model(), data={"x": x}, num_samples=1, states=[choice]).layers
    assert found.state_size == expected.state_size
    for one, two in ((found.time_radius, expected.time_radius), (found.time_gain, expected.time_gain)):
        assert one is not None
        assert two is not None
        assert (one.mean, one.num_points) == (pytest.approx(two.mean, rel=1e-5), two.num_points)
