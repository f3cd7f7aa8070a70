"""Cells that reach back over several steps alone are one recurrence, not as many side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from unrolled_models import Network, Unroller, at, layer, rolled, stacked, tanh_cell

from lsc_graph.audit_model import audit, inspect
from lsc_graph.canonical.normalize import normalize
from lsc_graph.recurrence.unrolled.chains import Order
from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.recurrence.unrolled.strided import find_strided_chains
from lsc_graph.recurrence.unrolled.substeps import Substeps

T, D, H = 6, 3, 4


def dilated(stride: int, num_steps: int, *, is_given: bool, is_reverse: bool = False) -> onnx.ModelProto:
    """h[t] = tanh(x[t] W + h[t - stride] U), or h[t + stride]."""
    net = Network(is_given=is_given, num_steps=num_steps)
    u = net.weight(H, H)
    rows = [net.start(f"h{k}", H) for k in range(stride)]
    for step in range(num_steps):
        back = rows[step] and net.op("MatMul", rows[step], u)
        time = num_steps - 1 - step if is_reverse else step
        rows.append(net.op("Tanh", net.sum(at(net, net.drives, time), back)))
    found = rows[stride:][::-1] if is_reverse else rows[stride:]
    return net.done(found, found)


@pytest.mark.parametrize("is_reverse", [False, True])
@pytest.mark.parametrize("is_given", [False, True])
@pytest.mark.parametrize(("stride", "num_steps"), [(2, 5), (2, 12), (3, 9), (4, 10)])
def test_all_steps_are_one_recurrence_with_as_many_states(
    stride: int, num_steps: int, *, is_given: bool, is_reverse: bool
) -> None:
    steps = rolled(dilated(stride, num_steps, is_given=is_given, is_reverse=is_reverse))
    assert (steps.num_steps, len(steps.rolled.state_names)) == (num_steps, stride)
    assert steps.rolled.is_reverse == is_reverse


def test_the_radius_is_the_root_of_that_over_the_stride() -> None:
    """A linear map of h[t-2] alone: the eigenvalues over one step are square roots of its own."""
    num_steps = 6
    net = Network(is_given=True, num_steps=num_steps)
    u, rows = net.weight(H, H), [net.start("h0", H), net.start("h1", H)]
    for time in range(num_steps):
        rows.append(net.sum(at(net, net.drives, time), net.op("MatMul", rows[time], u)))
    (own,) = audit(net.done(rows[2:], []), num_samples=1).layers
    expected = np.sqrt(np.abs(np.linalg.eigvals(net.initializers[u])).max())
    assert own.time_radius is not None
    assert own.time_radius.mean == pytest.approx(expected, rel=1e-5)


class _Dilated(nn.Module):
    """A gated cell reads the state at two places, and the first steps read zeros at both."""

    def __init__(self, stride: int, num_steps: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.stride, self.num_steps = nn.GRUCell(D, H), stride, num_steps

    def forward(self, x: Tensor) -> Tensor:
        rows = [torch.zeros(1, H)] * self.stride
        for time in range(self.num_steps):
            rows.append(self.cell(x[time], rows[time]))
        return torch.stack(rows[self.stride :])

    def mean_radius(self, x: Tensor) -> float:
        """Of the step from the last states to the next, which all but one shift by one place."""
        rows, radii = [torch.zeros(1, H)] * self.stride, []
        for time in range(self.num_steps):
            own = torch.autograd.functional.jacobian(lambda h, x=x[time]: self.cell(x, h), rows[time])
            step = torch.diag(torch.ones((self.stride - 1) * H), H)
            step[-H:, :H] = own.reshape(H, H)
            radii.append(float(torch.linalg.eigvals(step.double()).abs().max()))
            rows.append(self.cell(x[time], rows[time]).detach())
        return float(np.mean(radii[1:]))


@pytest.mark.parametrize(("stride", "num_steps"), [(3, 7), (4, 9), (4, 12)])
def test_few_steps_of_a_gated_cell_are_one_recurrence(tmp_path: Path, stride: int, num_steps: int) -> None:
    """As few as reach back to the first steps, what those give depends on no use of the weight."""
    net, x = _Dilated(stride, num_steps).eval(), torch.randn(num_steps, 1, D)
    path = tmp_path / "dilated.onnx"
    torch.onnx.export(net, (x,), path, dynamo=False, opset_version=17, input_names=["x"])
    found = audit(path, data={"x": x[None].numpy()}, num_samples=1)
    (recurrence,), (own,) = found.recurrences, found.layers
    assert (recurrence.num_steps, len(recurrence.states)) == (num_steps, stride)
    assert own.time_radius is not None
    assert own.time_radius.mean == pytest.approx(net.mean_radius(x), abs=1e-5)


def test_too_few_steps_are_refused_by_name() -> None:
    found = inspect(dilated(2, 3, is_given=True))
    assert found.recurrences == ()
    assert any("the longest has 2" in refusal.reason for refusal in found.refusals)


@pytest.mark.parametrize("is_shared", [False, True])
def test_chains_and_separate_sequences_are_not_strided(*, is_shared: bool) -> None:
    net = Unroller()
    cell, rows = tanh_cell(net, D, H), list[str]()
    for name in ("x", "z") if is_shared else ("x",):
        rows += layer(net, cell, net.input(name, T, 1, D), net.input(f"{name}.h", 1, H), range(T))
    net.output(stacked(net, rows))
    proto = net.model()
    shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in proto.graph.input}
    graph = normalize(proto, shapes, {}).graph
    order, constants = Order(graph), Constants(graph)
    assert list(find_strided_chains(order, constants, Substeps(order, constants))) == []
