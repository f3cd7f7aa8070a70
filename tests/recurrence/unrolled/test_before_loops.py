"""What a loop would have given before its first step is what follows from the states that it starts from."""

from __future__ import annotations

import numpy as np
import onnx
from unrolled_models import Network, Unroller, at, stacked

from lsc_graph.audit_model import audit

T, H = 6, 4


def gated_by_what_was(*, is_given: bool, reads_inputs: bool = False) -> onnx.ModelProto:
    """h' = tanh(x + h U) and k' = sigmoid(h Z) k + h', of which nothing but h' is left in the first step."""
    net = Network(is_given=is_given, num_steps=T)
    u, z = net.weight(H, H), net.weight(H, H)
    h, k, before, rows = net.start("h", H), net.start("k", H), "", list[str]()
    for time in range(T):
        drive = at(net, net.drives, time)
        was = net.op("Add", h, before) if reads_inputs and before else h
        new = net.op("Tanh", net.op("Add", drive, net.op("MatMul", h, u)) if h else drive)
        kept = net.op("Mul", net.op("Sigmoid", net.op("MatMul", was, z)), k) if k else ""
        h, before = new, drive
        k = net.op("Add", kept, new) if kept else net.op("Add", net.constant(np.zeros((1, H))), new)
        rows.append(k)
    return net.done(rows, rows)


def test_a_gate_of_the_state_before_is_there_at_the_first_step() -> None:
    given, zeros = (audit(gated_by_what_was(is_given=own), num_samples=1) for own in (True, False))
    assert given.grid is not None
    assert zeros.grid is not None
    assert [own.num_steps for own in zeros.recurrences] == [own.num_steps for own in given.recurrences]
    assert zeros.grid.num_gradient_paths == given.grid.num_gradient_paths
    assert not [text for text in zeros.warnings if "computed in another way" in text]


def test_what_reads_more_than_states_has_nothing_before_the_first_step() -> None:
    found = audit(gated_by_what_was(is_given=False, reads_inputs=True), num_samples=1)
    assert found.recurrences[-1].num_steps == T - 1
    assert [text for text in found.warnings if "computed in another way" in text]


def test_steps_that_read_all_that_the_loop_below_gives_lack_none() -> None:
    """s = h + tanh(n U + x W) with n = norm(h), which is constant in the first steps of all layers alike."""
    net = Unroller()
    scale, shift = net.constant(np.ones(H)), net.constant(np.zeros(H))
    weights = [[net.weight(H, H), net.weight(H, H)] for _ in range(2)]
    zeros = net.constant(np.zeros((1, H)))
    start = net.op("LayerNormalization", zeros, scale, shift)
    states, norms, x = [zeros, zeros], [start, start], net.input("x", T, 1, H)
    rows = list[str]()
    for time in range(T):
        row = at(net, x, time)
        for number, (u, w) in enumerate(weights):
            summed = net.op("Add", net.op("MatMul", norms[number], u), net.op("MatMul", row, w))
            states[number] = net.op("Add", states[number], net.op("Tanh", summed))
            row = norms[number] = net.op("LayerNormalization", states[number], scale, shift)
        rows.append(row)
    net.output(stacked(net, rows))
    found = audit(net.model(), num_samples=1)
    assert [own.num_steps for own in found.recurrences] == [T, T]
    assert found.grid is not None
    assert found.grid.num_gradient_paths == str(T)
