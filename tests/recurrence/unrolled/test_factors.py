"""Steps of which an exporter has left out a factor of 1 are steps like the others."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn
from unrolled_models import Network, at

from lsc_graph.audit_model import audit, inspect
from lsc_graph.canonical.normalize import normalize
from lsc_graph.recurrence.unrolled.factors import write_factors_of_one

H = 4
CLOCKS = {
    "shut at times": (0.3, 0.7, 0.0, 0.0, 0.4, 0.9, 0.0, 0.2),
    "open at times": (0.3, 1.0, 0.6, 1.0, 1.0, 0.2, 0.5, 0.7),
    "shut at the end": (0.3, 0.7, 0.5, 0.6, 0.4, 0.9, 0.2, 0.0),
    "open at the end": (0.3, 0.7, 0.5, 0.6, 0.4, 0.9, 0.2, 1.0),
    "shut or open": (1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0),
}


def gated(clock: Sequence[float], *, is_given: bool = True, simplifies: bool = True) -> onnx.ModelProto:
    """h' = k tanh(x W + h U) + (1 - k) h, without the factors of 1."""
    net = Network(is_given=is_given, num_steps=len(clock))
    u, h, rows = net.weight(H, H), net.start("h", H), list[str]()

    def scaled(value: str, factor: float) -> str:
        is_plain = simplifies and factor == 1
        return value if is_plain or not value else net.op("Mul", value, net.constant(np.float32([factor])))

    for time, open_ in enumerate(clock):
        new = net.op("Tanh", net.sum(at(net, net.drives, time), h and net.op("MatMul", h, u)))
        h = net.sum(scaled(new, open_), scaled(h, 1 - open_))
        rows.append(h)
    return net.done(rows, rows)


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_a_gate_that_a_clock_opens_has_the_radii_of_all_factors_written_out(clock: Sequence[float]) -> None:
    one, other = (audit(gated(clock, simplifies=own), num_samples=1) for own in (True, False))
    assert [own.num_steps for own in one.recurrences] == [len(clock)]
    for own, written in zip(one.layers, other.layers, strict=True):
        assert own.time_radius is not None
        assert written.time_radius is not None
        assert own.time_radius.num_points == written.time_radius.num_points
        assert own.time_radius.mean == pytest.approx(written.time_radius.mean, rel=1e-6)


def test_where_two_times_are_one_step_the_report_says_so() -> None:
    """Zeros were left out of the first step in another way, so that pairs of steps alone are alike."""
    found = audit(gated((0.5, *CLOCKS["shut or open"]), is_given=False), num_samples=1)
    assert [own.num_steps for own in found.recurrences] == [4]
    assert any("2 times are one step" in text for text in found.warnings)


def test_sums_of_which_every_one_is_scaled_or_none_stay_as_they_are() -> None:
    for clock in ((0.3, 0.7, 0.5, 0.6), (1.0, 1.0, 1.0, 1.0)):
        proto = gated(clock, simplifies=False)
        model = normalize(proto, {"x": (4, 1, 3), "h": (1, H)}, {})
        before = [node.op_type for node in model.graph]
        write_factors_of_one(model.graph)
        assert [node.op_type for node in model.graph] == before


def test_sums_over_other_weights_are_no_steps() -> None:
    """A residual network that halves what it adds in one block is no recurrence of its blocks."""
    net = Network(is_given=True, num_steps=4)
    h = net.start("h", H)
    for block in range(4):
        new = net.op("Tanh", net.op("MatMul", h, net.weight(H, H)))
        h = net.sum(new if block else net.op("Mul", new, net.constant(np.float32([0.5]))), h)
    net.output(h)
    graph = ir.from_proto(net.model()).graph
    before = len(graph)
    write_factors_of_one(graph)
    assert len(graph) == before


def test_a_factor_that_only_the_last_step_lacks_is_known_from_its_equal() -> None:
    """Two states behind one clock, each with constants of its own; nobody reads the last one of one."""
    net = Network(is_given=True, num_steps=6)
    u, v = net.weight(H, H), net.weight(H, H)
    h, c, rows = net.start("h", H), net.start("c", H), list[str]()
    for time in range(6):
        open_ = 0.1 + 0.15 * time
        blend = [[net.constant(np.float32([k])) for k in (open_, 1 - open_)] for _ in range(2)]
        new = net.op("Tanh", net.sum(at(net, net.drives, time), net.op("MatMul", h, u), c))
        cell = net.op("Sigmoid", net.op("MatMul", h, v))
        h = net.sum(net.op("Mul", new, blend[0][0]), net.op("Mul", h, blend[0][1]))
        if time < 5:
            c = net.sum(net.op("Mul", cell, blend[1][0]), net.op("Mul", c, blend[1][1]))
        rows.append(h)
    (own,) = audit(net.done(rows, rows), num_samples=1).recurrences
    assert own.num_steps == 6
    assert sum(state.shape[-1] for state in own.states) == 2 * H


class Adaptive(nn.Module):
    """Adaptive threshold neurons that read the current of the step before (as in norse), from rest."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inputs = nn.Linear(3, H, bias=False)
        self.recurrent = nn.Linear(H, H, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        leak = threshold = torch.tensor(0.0)
        v = z = i = torch.zeros(1, H)
        b = torch.ones(1, H)
        rows = []
        for now in x:
            risen = v + 0.1 * ((leak - v) + i)
            faded, b = i - 0.2 * i, b + 0.01 * (1.0 - b)
            i = faded + self.inputs(now) + self.recurrent(z)
            z = (risen - b > threshold).float()
            v, b = (1 - z) * risen, b + 1.8 * z
            rows.append(z)
        return torch.stack(rows)


@pytest.mark.parametrize("dynamo", [False, True])
def test_a_rate_that_two_sums_of_the_first_step_share_is_no_factor_that_was_left_out(*, dynamo: bool) -> None:
    file = io.BytesIO()
    torch.onnx.export(Adaptive().eval(), (torch.randn(9, 1, 3),), file, dynamo=dynamo, verbose=False)
    (found,) = inspect(onnx.load_from_string(file.getvalue())).recurrences
    assert found.num_steps >= 8
    assert len(found.weights) == 2


def test_two_sums_of_a_first_step_that_each_read_a_constant_are_not_both_the_first() -> None:
    """h' = d h + x W + tanh(h) U: the second sum of the first step looks like the first of the others."""
    net = Network(is_given=False, num_steps=6)
    u, w, x, h, rows = net.weight(H, H), net.weight(3, H), net.input("z", 6, 1, 3), "", list[str]()
    decay = net.constant(0.9)
    for time in range(6):
        kept = net.op("Mul", h, decay) if h else net.weight(1, H)
        back = net.op("MatMul", net.op("Tanh", h), u) if h else net.weight(1, H)
        h = net.op("Add", net.op("Add", kept, net.op("MatMul", at(net, x, time), w)), back)
        rows.append(h)
    model = normalize(net.done(rows, rows), {"x": (6, 1, 3), "z": (6, 1, 3)}, {})
    before = [node.op_type for node in model.graph]
    write_factors_of_one(model.graph)
    assert [node.op_type for node in model.graph] == before
