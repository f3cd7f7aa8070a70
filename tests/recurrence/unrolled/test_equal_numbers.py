"""Computations that differ in nothing but where their equal numbers stand are one."""

from __future__ import annotations

import io

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from unrolled_models import Unroller

from lsc_graph.audit_model import audit
from lsc_graph.canonical.normalize import normalize
from lsc_graph.recurrence.unrolled.equal_numbers import merge_over_equal_numbers
from lsc_graph.running.reference import Reference

T, D, H = 8, 3, 4


def model_of(*pairs: tuple[float, float], op: str = "Greater") -> ir.Model:
    """One value compared with two numbers of each pair, and what follows added up."""
    net = Unroller()
    x = net.op("Tanh", net.input("x", 1, H))
    total = x
    for pair in pairs:
        for number in pair:
            found = net.op(op, x, net.constant(np.float32(number)))
            total = net.op("Add", total, net.op("Cast", found, to=onnx.TensorProto.FLOAT))
    net.output(total)
    return normalize(net.model(), {"x": (1, H)}, {})


def count(model: ir.Model, op: str) -> int:
    return sum(node.op_type == op for node in model.graph)


def test_equal_numbers_make_one_and_others_do_not() -> None:
    model = model_of((0.25, 0.25), (0.5, 0.75))
    x = {"x": np.linspace(-2, 2, H, dtype=np.float32)[None]}
    before = Reference(ir.to_proto(model)).run(x)
    merge_over_equal_numbers(model.graph)
    assert (count(model, "Greater"), count(model, "Cast")) == (3, 3)
    for name, value in Reference(ir.to_proto(model)).run(x).items():
        np.testing.assert_array_equal(value, before[name])


def test_draws_and_outputs_of_the_model_stay_apart() -> None:
    net = Unroller()
    x = net.op("Tanh", net.input("x", 1, H))
    drawn = [net.op("Bernoulli", x) for _ in range(2)]
    net.output(net.op("Sub", *drawn))
    for _ in range(2):
        net.output(net.op("Mul", x, net.constant(np.float32(2))))
    model = normalize(net.model(), {"x": (1, H)}, {})
    merge_over_equal_numbers(model.graph)
    assert (count(model, "Bernoulli"), count(model, "Mul")) == (2, 2)


class Leaky(nn.Module):
    """A layer of leaky neurons (as in snntorch): what spikes is compared twice, to show and to reset it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.inputs = nn.Linear(size, H)
        for name, number in (("beta", 0.9), ("threshold", 1.0), ("height", 1.0)):
            self.register_buffer(name, torch.tensor(number))

    def spikes(self, membrane: Tensor) -> Tensor:
        return ((membrane - self.threshold) > 0).float()

    def forward(self, drive: Tensor, membrane: Tensor) -> tuple[Tensor, Tensor]:
        reset = self.spikes(membrane.clone()) * self.threshold
        membrane = self.beta.clamp(0, 1) * membrane + self.inputs(drive) - reset
        return self.spikes(membrane) * self.height, membrane


class Spiking(nn.Module):
    """Two layers of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lower, self.upper = Leaky(D), Leaky(H)

    def forward(self, x: Tensor) -> Tensor:
        u = v = torch.zeros(1, H)
        rows = []
        for now in x:
            shown, u = self.lower(now, u)
            shown, v = self.upper(shown, v)
            rows.append(shown)
        return torch.stack(rows)


def test_spiking_layers_are_the_same_from_both_exporters_of_torch() -> None:
    found = []
    for dynamo in (True, False):
        file = io.BytesIO()
        x = torch.rand(T, 1, D)
        torch.onnx.export(Spiking().eval(), (x,), file, input_names=["x"], dynamo=dynamo, verbose=False)
        found.append(audit(onnx.load_from_string(file.getvalue()), num_samples=2, surrogate="fast-sigmoid"))
    one, other = found
    assert [[own.num_steps for own in each.recurrences] for each in found] == [[T, T], [T, T]]
    assert one.grid == other.grid
    for mine, theirs in zip(one.layers, other.layers, strict=True):
        assert mine.state_size == theirs.state_size
        assert mine.time_radius is not None
        assert theirs.time_radius is not None
        assert mine.time_radius.mean == pytest.approx(theirs.time_radius.mean, rel=1e-5)
