"""Uses of one weight between two slices of a sequence are one step; layers over depth stay what they are."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from unrolled_models import Unroller, at, stacked

from lsc_graph.canonical.normalize import normalize
from lsc_graph.recurrence.unrolled.roll import RolledSteps, roll_steps
from lsc_graph.running.reference import Reference

T, B, D, H = 5, 2, 3, 4


def rolled(proto: onnx.ModelProto) -> tuple[RolledSteps, ...]:
    """Roll a model up, and check that nothing it computes has changed."""
    shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in proto.graph.input}
    generator = np.random.default_rng(1)
    feed = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    model = normalize(proto, shapes, {})
    steps, _ = roll_steps(model, lambda part: Reference(part).run(feed))
    expected, actual = Reference(proto).run(feed), Reference(ir.to_proto(model)).run(feed)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-5, atol=1e-6)
    return steps


def derivative(net: Unroller, h: str, u: str, drive: str) -> str:
    return net.op("Sub", net.op("Tanh", net.op("Add", net.op("MatMul", h, u), drive)), h)


def moved(net: Unroller, h: str, change: str, size: float) -> str:
    return net.op("Add", h, net.op("Mul", change, net.constant(size)))


def euler(net: Unroller, h: str, u: str, drive: str) -> str:
    for _ in range(3):
        h = moved(net, h, derivative(net, h, u, drive), 0.2)
    return h


def runge_kutta(net: Unroller, h: str, u: str, drive: str) -> str:
    changes = [derivative(net, h, u, drive)]
    for size in (0.1, 0.1, 0.2):
        changes.append(derivative(net, moved(net, h, changes[-1], size), u, drive))
    for change, size in zip(changes, (1 / 30, 1 / 15, 1 / 15, 1 / 30), strict=True):
        h = moved(net, h, change, size)
    return h


@pytest.mark.parametrize("solver", [euler, runge_kutta])
@pytest.mark.parametrize("is_folded", [False, True])
def test_a_step_of_an_ode_solver_is_one_step(solver: object, is_folded: bool) -> None:
    net = Unroller()
    x, w, u = net.input("x", T, B, D), net.weight(D, H), net.weight(H, H)
    h = net.constant(np.zeros((B, H))) if is_folded else net.input("h", B, H)
    rows = []
    for time in range(T):
        h = solver(net, h, u, net.op("MatMul", at(net, x, time), w))
        rows.append(h)
    net.output(stacked(net, rows))
    assert [(own.num_steps, len(own.rolled.state_names)) for own in rolled(net.model())] == [(T, 1)]


def test_layers_over_depth_that_each_read_the_whole_input_are_one_step_each() -> None:
    net = Unroller()
    x, w, u = net.input("x", B, D), net.weight(D, H), net.weight(H, H)
    h, drive = net.input("h", B, H), net.op("MatMul", x, w)
    for _ in range(6):
        h = moved(net, h, derivative(net, h, u, drive), 0.2)
    net.output(h)
    assert [(own.num_steps, own.over_depth) for own in rolled(net.model())] == [(6, True)]


def test_steps_that_go_on_after_the_last_slice_are_steps_like_the_others() -> None:
    """Two more steps that read the last slice again: each use is a step."""
    net = Unroller()
    x, w, u = net.input("x", T, B, D), net.weight(D, H), net.weight(H, H)
    h, rows = net.input("h", B, H), []
    for time in [*range(T), T - 1, T - 1]:
        h = net.op("Tanh", net.op("Add", net.op("MatMul", h, u), net.op("MatMul", at(net, x, time), w)))
        rows.append(h)
    net.output(stacked(net, rows))
    assert [own.num_steps for own in rolled(net.model())] == [T + 2]
