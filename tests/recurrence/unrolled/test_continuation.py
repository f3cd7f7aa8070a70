"""Two equal steps and a folded first are no proof where the last step reads more than they do."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from unrolled_models import Network, at, rolled

from lsc_graph.audit_model import inspect

T, H = 3, 4


def from_zeros(*, is_delayed: bool, reads_all: bool) -> onnx.ModelProto:
    """h' = tanh(x W + h U + p V), p' = h; what is zero was folded into one constant, which is still added."""
    net = Network(is_given=False, num_steps=T)
    u, v, zero = net.weight(H, H), net.weight(H, H), net.constant(np.zeros((1, H)))
    h, before, rows = "", "", list[str]()
    for time in range(T):
        new = net.op("Add", at(net, net.drives, time), net.op("MatMul", h, u) if h else zero)
        if is_delayed:
            new = net.op("Add", new, net.op("MatMul", before, v) if before else zero)
        h, before = net.op("Tanh", new), h
        rows.append(h)
    read = net.op("Add", net.op("MatMul", h, net.weight(H, H)), net.weight(1, H))
    return net.done(rows if reads_all else [read], rows)


@pytest.mark.parametrize("reads_all", [True, False])
def test_a_delay_that_has_just_begun_is_refused(*, reads_all: bool) -> None:
    found = inspect(from_zeros(is_delayed=True, reads_all=reads_all))
    assert found.recurrences == ()
    assert any("uses follow each other" in refusal.reason for refusal in found.refusals)


@pytest.mark.parametrize("reads_all", [True, False])
def test_steps_without_a_delay_are_found(*, reads_all: bool) -> None:
    steps = rolled(from_zeros(is_delayed=False, reads_all=reads_all))
    assert (steps.num_steps, len(steps.rolled.state_names)) == (T, 1)
