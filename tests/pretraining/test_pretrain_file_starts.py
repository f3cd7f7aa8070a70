"""Networks whose first step was multiplied by the weights beforehand are pre-trained with all their steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from unrolled_models import Network, at

from lsc_graph.audit_model import inspect
from lsc_graph.pretraining.pretrain_file import pretrain_file

T, H = 6, 4


def from_learned_start(*, is_known: bool) -> onnx.ModelProto:
    """h' = tanh(x + h U) + h / 2; h U of the first step is a constant, and the start may be one."""
    net = Network(is_given=False, num_steps=T)
    u, start = net.weight(H, H, scale=1.0), net.weight(1, H)
    folded = net.constant(net.initializers[start] @ net.initializers[u], "folded")
    h, rows = start if is_known else "", list[str]()
    for time in range(T):
        back = net.op("MatMul", h, u) if time else folded
        new = net.op("Tanh", net.op("Add", at(net, net.drives, time), back))
        h = net.op("Add", new, net.op("Mul", h, net.constant(0.5))) if is_known else new
        rows.append(h)
    return net.done(rows, rows)


@pytest.mark.parametrize("is_known", [False, True])
def test_the_constant_stays_as_it_is_and_the_steps_are_found_again(tmp_path: Path, *, is_known: bool) -> None:
    model, output = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(from_learned_start(is_known=is_known), model)
    report = pretrain_file(model, output, target_time=0.7)
    assert report.is_reached
    before, after = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
        for path in (model, output)
    )
    np.testing.assert_array_equal(before["folded"], after["folded"])
    assert any(not np.array_equal(value, after[name]) for name, value in before.items())
    assert [own.num_steps for own in inspect(output).recurrences] == [T]
