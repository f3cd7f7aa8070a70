"""Where one state alone determines another, the report names both readings of the file."""

from __future__ import annotations

import re

import numpy as np
import pytest
from unrolled_models import Unroller, at, stacked

from lsc_graph.audit_model import inspect
from lsc_graph.results import Form

T, D, H = 6, 3, 4


def residual(num_fed_back: int) -> Unroller:
    """h' = h + tanh(f(h) U + x W), y = LN(h'), with f = LN or the identity, from folded zeros."""
    net = Unroller()
    x, u = net.op("MatMul", net.input("x", T, 1, D), net.weight(D, H)), net.weight(H, H)
    scale, shift = net.weight(H), net.constant(np.zeros(H))
    h = known = ""
    rows = []
    for time in range(T):
        drive = at(net, x, time)
        new = net.op("Tanh", net.op("Add", net.op("MatMul", known, u), drive) if known else drive)
        h = net.op("Add", h, new) if h else new
        rows.append(net.op("LayerNormalization", h, scale, shift))
        known = rows[-1] if num_fed_back else h
    net.output(stacked(net, rows))
    return net


@pytest.mark.parametrize("num_fed_back", [0, 1])
def test_a_state_that_follows_from_another_one_is_named(num_fed_back: int) -> None:
    found = inspect(residual(num_fed_back).model())
    (recurrence,) = found.recurrences
    assert (recurrence.form, len(recurrence.states)) == (Form.UNROLLED, 1 + num_fed_back)
    warnings = [warning for warning in found.warnings if "alone" in warning]
    assert len(warnings) == num_fed_back
    assert all("steps take over both" in warning for warning in warnings)
    for warning in warnings:
        other = inspect(residual(num_fed_back).model(), states=[told(warning)])
        assert len(other.recurrences[0].states) == 1
        assert not [warning for warning in other.warnings if "alone" in warning]


def told(warning: str) -> tuple[str, str]:
    """The option that a warning says to type."""
    (text,) = re.findall(r"--state (\S+)", warning)
    before, after = text.split(":")
    return before, after


@pytest.mark.parametrize("is_given", [False, True])
def test_a_state_that_holds_another_one_is_named(is_given: bool) -> None:
    """a' = tanh(x W + [a, b] U), b' = b + sin(x W + [a, b] V), y = [a', b']: the next step reads y and b'.

    A first value of its own, which a caller gives, says that y is a state.
    """
    net = Unroller()
    x = net.op("MatMul", net.input("x", T, 1, D), net.weight(D, H))
    u, v, rows = net.weight(2 * H, H), net.weight(2 * H, H), []
    b = net.input("b", 1, H) if is_given else net.constant(np.zeros((1, H)))
    both = net.input("both", 1, 2 * H) if is_given else net.constant(np.zeros((1, 2 * H)))
    for time in range(T):
        drive = at(net, x, time)
        a = net.op("Tanh", net.op("Add", net.op("MatMul", both, u), drive))
        b = net.op("Add", b, net.op("Sin", net.op("Add", net.op("MatMul", both, v), drive)))
        both = net.op("Concat", a, b, axis=-1)
        rows.append(both)
    net.output(stacked(net, rows))
    found = inspect(net.model())
    warnings = [warning for warning in found.warnings if "is made of that" in warning]
    sizes = [state.shape[-1] for state in found.recurrences[0].states]
    assert (len(warnings), sum(sizes)) == (not is_given, 3 * H if is_given else 2 * H)
    for warning in warnings:
        other = inspect(net.model(), states=[told(warning)])
        assert sorted(state.shape for state in other.recurrences[0].states) == [(1, H), (1, 2 * H)]
        (held,) = (warning for warning in other.warnings if "holds all of state" in warning)
        again = inspect(net.model(), states=[told(held)])
        assert [state.shape for state in again.recurrences[0].states] == [(1, H), (1, H)]


@pytest.mark.parametrize("num_ranges", [1, T])
def test_a_state_that_is_another_one_within_limits_is_named(num_ranges: int) -> None:
    """h' = h + tanh(clip(h) U + x W), y = clip(h'), as quantised steps saturate: each by itself."""
    net = Unroller()
    x, u = net.op("MatMul", net.input("x", T, 1, D), net.weight(D, H)), net.weight(H, H)
    rows: list[str] = []
    h = ""
    for time in range(T):
        drive = at(net, x, time)
        new = net.op("Tanh", net.op("Add", net.op("MatMul", rows[-1], u), drive) if rows else drive)
        h = net.op("Add", h, new) if h else new
        ends = [np.float32(end * (2 + time % num_ranges)) for end in (-1, 1)]
        rows.append(net.op("Clip", h, *map(net.constant, ends)))
    net.output(stacked(net, rows))
    found = inspect(net.model())
    (warning,) = [own for own in found.warnings if "alone" in own]
    assert len(found.recurrences[0].states) == 2
    if num_ranges > 1:
        assert "cannot leave it out" in warning
    else:
        (other,) = inspect(net.model(), states=[told(warning)]).recurrences
        assert len(other.states) == 1
