"""First steps that were simplified away are put back; where that cannot be, the report says so."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from unrolled_models import Network, at, rolled

from lsc_graph.audit_model import inspect

T, H = 6, 4


def with_folded_bias(error: float, *, reads_from_end: bool = False) -> onnx.ModelProto:
    """h' = tanh(x W + (h U + b)), of which the first bracket is a constant that may be rounded."""
    net = Network(is_given=False, num_steps=T)
    u, b = net.weight(H, H), net.weight(H)
    folded = net.constant(net.initializers[b][None] + error)
    h, rows = "", list[str]()
    for time in range(T):
        back = net.op("Add", net.op("MatMul", h, u), b) if h else folded
        drive = at(net, net.drives, T - 1 - time if reads_from_end else time)
        h = net.op("Tanh", net.op("Add", drive, back))
        rows.append(h)
    return net.done(rows, rows)


@pytest.mark.parametrize("reads_from_end", [False, True])
@pytest.mark.parametrize(("error", "num_apart"), [(0.0, 0), (0.01, 1)])
def test_a_first_step_with_other_constants_stays_apart_and_is_named(
    error: float, num_apart: int, *, reads_from_end: bool
) -> None:
    proto = with_folded_bias(error, reads_from_end=reads_from_end)
    steps = rolled(proto)
    assert (steps.num_steps, steps.num_apart) == (T - num_apart, num_apart)
    told = [text for text in inspect(proto).warnings if "computed in another way" in text]
    assert len(told) == num_apart
    assert all(f"of {T} steps the first 1" in text for text in told)


@pytest.mark.parametrize("start", ["given", "zeros"])
def test_slices_that_no_first_state_is_computed_from_are_no_steps(start: str) -> None:
    net = Network(is_given=True, num_steps=T)
    u, rows = net.weight(H, H), list[str]()
    h = net.start("h", H) if start == "given" else net.constant(np.zeros((1, H)))
    for time in range(2, T):
        h = net.op("Tanh", net.op("Add", at(net, net.drives, time), net.op("MatMul", h, u)))
        rows.append(h)
    steps = rolled(net.done(rows, rows))
    assert (steps.num_steps, steps.num_apart) == (T - 2, 0)
