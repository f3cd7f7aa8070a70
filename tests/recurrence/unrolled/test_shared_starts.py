"""Recurrences that begin with the same steps have as many steps as if each were written out by itself."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn
from unrolled_models import Network, Unroller, at, layer, stacked, tanh_cell

from lsc_graph.audit_model import audit
from lsc_graph.recurrence.unrolled.shared_starts import write_starts_apart
from lsc_graph.results import Analysis

H, D = 4, 3


def outward(starts: tuple[int, int], num_steps: int, *, is_given: bool = True) -> onnx.ModelProto:
    """One cell from one state upwards from the first of two times, and downwards from the second one."""
    net = Unroller()
    cell, x = tanh_cell(net, D, H), net.input("x", num_steps, 1, D)
    start = net.input("h", 1, H) if is_given else net.constant(np.zeros((1, H)))
    up = layer(net, cell, x, start, range(starts[0], num_steps))
    down = layer(net, cell, x, start, range(starts[1], -1, -1))
    net.output(stacked(net, [*down[::-1], *up]))
    return net.model()


def steps_of(found: Analysis) -> list[tuple[str, int]]:
    return sorted((own.direction, own.num_steps) for own in found.recurrences)


@pytest.mark.parametrize("is_given", [False, True])
@pytest.mark.parametrize(
    ("starts", "num_steps", "expected"),
    [((6, 5), 12, (6, 6)), ((3, 2), 7, (4, 3)), ((6, 6), 12, (6, 7)), ((4, 4), 12, (8, 5))],
)
def test_a_cell_that_runs_outward_from_the_centre_has_all_its_steps_both_ways(
    starts: tuple[int, int], num_steps: int, expected: tuple[int, int], *, is_given: bool
) -> None:
    proto = outward(starts, num_steps, is_given=is_given)
    found = audit(proto, num_samples=1)
    assert steps_of(found) == [("forward", expected[0]), ("reverse", expected[1])]
    assert found.grid.num_gradient_paths == "2"


def test_radii_are_those_of_the_cell_itself_both_ways() -> None:
    """h' = tanh(W x + U h + b): the Jacobian is diag(1 - h'^2) U."""
    proto = outward((4, 3), 8)
    generator = np.random.default_rng(3)
    feed = {"x": generator.standard_normal((8, 1, D)), "h": generator.standard_normal((1, H))}
    feed = {name: value.astype(np.float32) for name, value in feed.items()}
    w, u, b = (onnx.numpy_helper.to_array(weight).astype(float) for weight in proto.graph.initializer[:3])
    found = {own.recurrence: own for own in audit(proto, data=feed, num_samples=1).layers}
    expected = []
    for times in (range(4, 8), range(3, -1, -1)):
        h, radii = feed["h"], []
        for time in times:
            h = np.tanh(feed["x"][time] @ w + h @ u + b)
            radii.append(np.abs(np.linalg.eigvals(u * (1 - h**2))).max())
        expected.append(np.mean(radii[1:]))
    measured = [own.time_radius.mean for own in found.values() if own.time_radius is not None]
    assert sorted(measured) == pytest.approx(sorted(expected), rel=1e-4)


def test_what_two_runs_share_for_longer_than_each_goes_on_alone_is_not_repeated() -> None:
    net = Unroller()
    cell, x = tanh_cell(net, D, H), net.input("x", 12, 1, D)
    common = layer(net, cell, x, net.input("h", 1, H), range(6))
    for times in (range(6, 9), range(9, 12)):
        net.output(layer(net, cell, x, common[-1], times)[-1])
    graph = ir.from_proto(net.model()).graph
    before = len(graph)
    write_starts_apart(graph)
    assert len(graph) == before


def test_few_steps_of_a_factor_for_every_unit_are_found_where_the_first_one_was_simplified_away() -> None:
    """h' = a h + x W: three steps from zeros use the factor twice."""
    net = Network(is_given=False, num_steps=7, num_units=H)
    a = net.constant(np.array([0.3, 0.5, 0.7, 0.9]))
    rows: list[str] = []
    for times in (range(2, -1, -1), range(3, 7)):
        h = ""
        for time in times:
            h = net.sum(at(net, net.drives, time), h and net.op("Mul", h, a))
            rows.append(h)
    found = audit(net.done(rows, rows), num_samples=1)
    assert steps_of(found) == [("forward", 4), ("reverse", 3)]
    assert [own.time_radius and own.time_radius.mean for own in found.layers] == pytest.approx([0.9, 0.9])


class _Outward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(D, H)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        rows: dict[int, torch.Tensor] = {}
        for times in (range(4, 8), range(4, -1, -1)):
            state = h
            for time in times:
                state = rows[time] = self.cell(x[time], state)
        return torch.stack([rows[time] for time in range(8)])


@pytest.mark.parametrize("dynamo", [False, True])
def test_a_gated_cell_that_shares_its_first_step_gives_the_same_from_both_exporters(
    tmp_path: object, *, dynamo: bool
) -> None:
    path, args = f"{tmp_path}/outward.onnx", (torch.randn(8, 1, D), torch.randn(1, H))
    torch.onnx.export(_Outward().eval(), args, path, dynamo=dynamo, opset_version=18, verbose=False)
    assert steps_of(audit(path, num_samples=1)) == [("forward", 4), ("reverse", 5)]


def gated_stack(num_steps: int) -> onnx.ModelProto:
    """h' = (1 - z) tanh(x W) + z h with z = sigmoid(x + h U), read as a whole by two more, one each way."""
    net = Unroller()
    x, one, start = net.input("x", num_steps, 1, H), net.constant(1.0), net.weight(1, H)

    def states(rows: list[str]) -> list[str]:
        w, u, h, found = net.weight(H, H), net.weight(H, H), start, list[str]()
        for row in rows:
            z = net.op("Sigmoid", net.op("Add", row, net.op("MatMul", h, u)))
            new = net.op("Mul", net.op("Sub", one, z), net.op("Tanh", net.op("MatMul", row, w)))
            h = net.op("Add", new, net.op("Mul", z, h))
            found.append(h)
        return found

    whole = stacked(net, states([at(net, x, time) for time in range(num_steps)]))
    above = [at(net, whole, time) for time in range(num_steps)]
    up, down = states(above), states(above[::-1])
    net.output(stacked(net, [net.op("Add", *pair) for pair in zip(up, down[::-1], strict=True)]))
    return net.model()


def test_a_one_that_layers_of_a_stack_share_makes_no_two_layers_of_one() -> None:
    found = audit(gated_stack(6), num_samples=1)
    assert steps_of(found) == [("forward", 6), ("forward", 6), ("reverse", 6)]
