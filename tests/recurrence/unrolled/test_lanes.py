"""Last steps, whose values others may read than those of the steps before, are steps."""

from __future__ import annotations

import numpy as np
from unrolled_models import Network, at

from lsc_graph.audit_model import audit, inspect

T, H = 6, 4


def test_the_last_step_of_a_residual_stack_is_one_where_only_its_last_output_is_read() -> None:
    """v + h of the lower layer enters the upper one, and in the last step also the output."""
    net = Network(is_given=False, num_steps=T)
    a, b, h, g, last = net.weight(H, H), net.weight(H, H), net.weight(1, H), net.weight(1, H), ""
    into = net.weight(H, H)
    for time in range(T):
        x = at(net, net.drives, time)
        h = net.op("Tanh", net.op("Add", x, net.op("MatMul", h, a)))
        v = net.op("Add", x, h)
        g = net.op("Tanh", net.op("Add", net.op("MatMul", v, into), net.op("MatMul", g, b)))
        last = net.op("Add", v, g)
    net.output(last)
    x = np.random.default_rng(0).standard_normal((T, 1, 3)).astype(np.float32)
    found = audit(net.model(), data={"x": x}, num_samples=1)
    assert [own.num_steps for own in found.recurrences] == [T, T]
    assert [layer.depth_from for layer in found.layers] == [(), (found.layers[0].id,)]
    assert not [text for text in found.warnings if "behind the last layer" in text]


def test_the_last_step_is_one_where_each_reads_its_input_by_a_weight_of_its_own() -> None:
    """h' = tanh(x[t] W[t] + a h)."""
    net = Network(is_given=False, num_steps=T)
    a, h, rows = net.weight(H), net.weight(1, H), list[str]()
    for time in range(T):
        drive = net.op("MatMul", at(net, net.drives, time), net.weight(H, H))
        h = net.op("Tanh", net.op("Add", drive, net.op("Mul", h, a)))
        rows.append(h)
    found = inspect(net.done(rows, rows))
    assert [own.num_steps for own in found.recurrences] == [T]
