"""Read-outs of first steps are those of the steps, though they read constants."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from unrolled_models import Unroller, at, stacked

from lsc_graph.audit_model import audit
from lsc_graph.rerolling import reroll

T, H = 6, 4


def weighted_means(start: str, num_layers: int = 2) -> onnx.ModelProto:
    """y = (a + e v) / (b + e + 1), then a' = d a + f v, b' = d b + f; of zeros each reader has its own."""
    net = Unroller()
    one, x, rows = net.constant([[1.0] * H]), net.input("x", T, 1, H), list[str]()
    weights = [[net.weight(H, H), net.weight(H, H), net.weight(H), net.weight(H)] for _ in range(num_layers)]
    states = [["", ""]] * num_layers
    if start == "given":
        states = [[net.input(f"{k}{n}", 1, H) for k in "ab"] for n in range(num_layers)]

    def zeros() -> str:
        return net.constant(np.zeros((1, H)))

    for time in range(T):
        row = at(net, x, time)
        for number, (into_k, into_v, decay, bonus) in enumerate(weights):
            a, b = states[number]
            k, v = net.op("MatMul", row, into_k), net.op("MatMul", row, into_v)
            e, f = net.op("Exp", net.op("Add", k, bonus)), net.op("Exp", k)
            above = net.op("Add", a or zeros(), net.op("Mul", e, v))
            below = net.op("Add", net.op("Add", b or zeros(), e), one)
            row = net.op("Div", above, below)
            kept = net.op("Mul", decay, a or zeros())
            other = net.op("Mul", decay, b) if b else kept
            states[number] = [net.op("Add", kept, net.op("Mul", f, v)), net.op("Add", other, f)]
        rows.append(row)
    net.output(stacked(net, rows))
    return net.model()


def test_read_outs_of_zeros_are_read_outs_of_the_first_step() -> None:
    given, zeros = (audit(weighted_means(start), num_samples=1) for start in ("given", "zeros"))
    for found in (given, zeros):
        assert [(own.num_steps, len(own.states)) for own in found.recurrences] == [(T, 1)] * 4
    assert given.grid is not None
    assert zeros.grid is not None
    assert given.grid.num_gradient_paths == zeros.grid.num_gradient_paths
    assert not [text for text in zeros.warnings if "same weight" in text or "beside the layers" in text]


def gated(other_weight: bool) -> onnx.ModelProto:
    """h' = tanh(x + h U), read out as sigmoid(h Z): of the first state, or by another weight there."""
    net = Unroller()
    x, u, z, rows = net.input("x", T, 1, H), net.weight(H, H), net.weight(H, H), list[str]()
    first, h = net.weight(H, H) if other_weight else z, ""
    for time in range(T):
        drive = at(net, x, time)
        h = net.op("Tanh", net.op("Add", drive, net.op("MatMul", h, u)) if h else drive)
        rows.append(net.op("Sigmoid", net.op("MatMul", h, z if time else first)))
    net.output(stacked(net, rows))
    return net.model()


@pytest.mark.parametrize("other_weight", [False, True])
def test_a_read_out_by_another_weight_is_none_of_the_steps(*, other_weight: bool) -> None:
    found = reroll(gated(other_weight))
    kinds = [node.op_type for node in found.model.graph.node]
    assert [own.num_steps for own in found.recurrences] == [T]
    assert kinds.count("Sigmoid") == kinds.count("MatMul") == other_weight


@pytest.mark.parametrize("is_folded", [False, True])
def test_a_read_out_that_reads_a_folded_start_is_one_of_the_steps(*, is_folded: bool) -> None:
    """h' = a h + x U, read out with r = sigmoid(x Z + k h) of the state before: k times zeros, at first."""
    net = Unroller()
    x, u, z = net.input("x", T, 1, H), net.weight(H, H), net.weight(H, H)
    k, decay, rows = net.weight(H), net.constant(np.full(H, 0.9)), list[str]()
    h = net.constant(np.zeros((1, H)))
    for time in range(T):
        row = at(net, x, time)
        seen = net.op("Mul", k, h) if time or not is_folded else net.constant(np.zeros((1, H)))
        r = net.op("Sigmoid", net.op("Add", net.op("MatMul", row, z), seen))
        kept = net.op("Mul", decay, h)
        h = net.op("Tanh", net.op("Add", kept, net.op("MatMul", row, u)))
        rows.append(net.op("Mul", r, h))
    net.output(stacked(net, rows))
    found = reroll(net.model())
    assert [own.num_steps for own in found.recurrences] == [T]
    assert [node.op_type for node in found.model.graph.node].count("Sigmoid") == 0
