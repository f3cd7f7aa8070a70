"""Last steps, whose values others may read than those of the steps before, are steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
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


class Calibration(CalibrationDataReader):
    """The inputs by which a quantiser tells the ranges of values."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        generator = np.random.default_rng(0)
        draw = (
            {name: 2 * generator.standard_normal(shape) for name, shape in shapes.items()} for _ in range(20)
        )
        self.left = [{name: value.astype(np.float32) for name, value in own.items()} for own in draw]

    def get_next(self) -> dict[str, np.ndarray]:
        return self.left.pop() if self.left else {}


def test_the_last_step_is_one_where_each_step_clips_what_it_reads_to_a_range_of_its_own(
    tmp_path: Path,
) -> None:
    """h' = tanh((x W + h U) + b) in two layers, tanh between them, quantised with QDQ."""
    net = Network(is_given=True, num_steps=T)
    weights = [(net.weight(H, H), net.weight(H, H), net.weight(H)) for _ in range(2)]
    rows = [at(net, net.drives, time) for time in range(T)]
    for layer, (w, u, b) in enumerate(weights):
        h, states = net.start(f"h{layer}", H), list[str]()
        for x in rows:
            drive = net.op("Add", net.op("MatMul", x, w), net.op("MatMul", h, u))
            h = net.op("Tanh", net.op("Add", drive, b))
            states.append(h)
        rows = [net.op("Tanh", h) for h in states] if not layer else states
    whole, rounded = tmp_path / "whole.onnx", tmp_path / "rounded.onnx"
    onnx.save(net.done(rows, rows), whole)
    samples = Calibration(x=(T, 1, 3), h0=(1, H), h1=(1, H))
    quantize_static(str(whole), str(rounded), samples, quant_format=QuantFormat.QDQ)
    found = audit(rounded, num_samples=1)
    assert [own.num_steps for own in found.recurrences] == [T, T]
    assert not [text for text in found.warnings if "steps beside" in text]
