"""A step takes over no more than the network has as its state, however equal computations were merged."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from unrolled_models import Unroller, at, stacked

from lsc_graph.canonical.normalize import normalize
from lsc_graph.recurrence.unrolled.roll import RolledSteps, roll_steps
from lsc_graph.running.reference import Reference

T, B, D, H = 6, 2, 3, 4


def rolled(proto: onnx.ModelProto) -> RolledSteps:
    """Roll a model up, and check that nothing it computes has changed."""
    shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in proto.graph.input}
    generator = np.random.default_rng(1)
    feed = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    model = normalize(proto, shapes, {})
    (steps,), _ = roll_steps(model, lambda part: Reference(part).run(feed))
    expected, actual = Reference(proto).run(feed), Reference(ir.to_proto(model)).run(feed)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-5, atol=1e-6)
    return steps


def state_sizes(steps: RolledSteps) -> list[tuple[object, ...]]:
    return [tuple(v.shape or ()) for v in steps.rolled.scan.inputs[: len(steps.rolled.state_names)] if v]


def adapting(net: Unroller, num_steps: int, threshold: list[float]) -> list[str]:
    """v' = a v + x W + z U - thr z, b' = r b + z, z' = sigmoid(v' - thr'), thr = beta b + theta."""
    x = net.op("MatMul", net.input("x", num_steps, B, D), net.weight(D, H))
    u, alpha, rho, beta, theta = net.weight(H, H), *(net.weight(H) for _ in range(4))
    z, v, b = (net.input(name, B, H) for name in "zvb")
    first = net.constant(np.array(threshold))
    thr, rows = first, []
    for time in range(num_steps):
        drive = net.op("Add", at(net, x, time), net.op("MatMul", z, u))
        reset = net.op("Mul", thr, z)
        v = net.op("Sub", net.op("Add", net.op("Mul", v, alpha), drive), reset)
        b = net.op("Add", net.op("Mul", b, rho), z)
        thr = net.op("Add", net.op("Mul", b, beta), theta)
        z = net.op("Sigmoid", net.op("Sub", v, thr))
        rows.append(z)
    return rows


def test_what_follows_from_another_state_is_computed_again() -> None:
    """A product with a recurrent weight whose first value was folded, beside the state it is made from."""
    net = Unroller()
    x = net.op("MatMul", net.input("x", 3, B, D), net.weight(D, H))
    u, again = net.weight(H, H), net.weight(H, H)
    h = net.constant(0.5 * np.random.default_rng(0).standard_normal((B, H)))
    folded = net.constant(net.initializers[h] @ net.initializers[u])
    rows = []
    for time in range(3):
        gate = net.op("Sigmoid", net.op("MatMul", h, u) if time else folded)
        new = net.op("Tanh", net.op("MatMul", net.op("Add", at(net, x, time), h), again))
        h = net.op("Add", net.op("Mul", gate, h), new)
        rows.append(h)
    net.output(stacked(net, rows))
    steps = rolled(net.model())
    assert (steps.num_steps, state_sizes(steps)) == (3, [(B, H)])


def test_what_starts_from_something_else_stays_a_state() -> None:
    """Thresholds that follow the adaptation, but for the first one, which is given."""
    net = Unroller()
    net.output(stacked(net, adapting(net, T, [3.0, 1.0, 4.0, 1.5])))
    assert len(state_sizes(rolled(net.model()))) == 4


@pytest.mark.parametrize(("start", "num_states"), [(0.0, 2), (0.5, 2), (1 / (1 + np.e), 1)])
def test_spikes_are_a_state_unless_they_start_as_the_voltages_say(start: float, num_states: int) -> None:
    """z = sigmoid(v - 1), and v starts from zeros: what z starts from says whether it is carried itself."""
    net = Unroller()
    x = net.op("MatMul", net.input("x", T, B, D), net.weight(D, H))
    one, leak, u = net.constant(1.0), net.constant(0.9), net.weight(H, H)
    z = net.constant(np.full((B, H), start))
    v, rows = net.constant(np.zeros((B, H))), []
    for time in range(T):
        drive = net.op("Add", at(net, x, time), net.op("MatMul", z, u))
        v = net.op("Add", net.op("Mul", net.op("Mul", v, leak), net.op("Sub", one, z)), drive)
        z = net.op("Sigmoid", net.op("Sub", v, one))
        rows.append(z)
    net.output(stacked(net, rows))
    assert state_sizes(rolled(net.model())) == [(B, H)] * num_states


def test_of_several_states_in_one_step_each_loses_what_follows_from_it() -> None:
    """Two cells that read each other, each with a product with its recurrent weight: both products go."""
    net = Unroller()
    below = net.op("MatMul", net.input("x", 4, B, D), net.weight(D, H))
    generator, layers = np.random.default_rng(0), []
    for _ in range(2):
        h, u = net.constant(0.5 * generator.standard_normal((B, H))), net.weight(H, H)
        layers.append([h, u, net.constant(net.initializers[h] @ net.initializers[u]), net.weight(H, H)])
    rows = []
    for time in range(4):
        value = net.op("Add", at(net, below, time), layers[1][0])
        for layer in layers:
            h, u, folded, again = layer
            gate = net.op("Sigmoid", net.op("MatMul", h, u) if time else folded)
            new = net.op("Tanh", net.op("MatMul", net.op("Add", value, h), again))
            layer[0] = value = net.op("Add", net.op("Mul", gate, h), new)
        rows.append(value)
    net.output(stacked(net, rows))
    proto = net.model()
    model = normalize(proto, {"x": (4, B, D)}, {})
    feed = {"x": np.random.default_rng(1).standard_normal((4, B, D)).astype(np.float32)}
    (found,), _ = roll_steps(model, lambda part: Reference(part).run(feed))
    assert state_sizes(found) == [(B, H)] * 2
    expected, actual = Reference(proto).run(feed), Reference(ir.to_proto(model)).run(feed)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("is_residual", [False, True])
@pytest.mark.parametrize("is_given", [False, True])
def test_what_the_file_computes_from_a_given_first_state_is_no_state(
    is_residual: bool, is_given: bool
) -> None:
    """Each step hands on u, and the next one begins with tanh(u), which is what the step before puts out."""
    net = Unroller()
    x, w, u = net.input("x", T, B, D), net.weight(D, H), net.weight(H, H)
    state = net.input("u", B, H)
    active = net.op("Tanh", state) if is_given else net.input("active", B, H)
    rows = []
    for time in range(T):
        new = net.op("Add", net.op("MatMul", active, u), net.op("MatMul", at(net, x, time), w))
        state = net.op("Add", state, new) if is_residual else new
        active = net.op("Tanh", state)
        rows.append(active)
    net.output(stacked(net, rows))
    steps = rolled(net.model())
    names = [str(name) for name in steps.rolled.state_names]
    assert len(names) == 1 + (is_residual and not is_given)
    assert any("add_" in name for name in names) == (is_residual or is_given)


def test_a_state_in_another_shape_is_no_second_state() -> None:
    """The next step reads h, and h with another axis, which was computed once for several readers."""
    net = Unroller()
    x, u, axes = (
        net.op("MatMul", net.input("x", T, B, D), net.weight(D, H)),
        net.weight(H, H),
        net.constant([0]),
    )
    h, tall, rows = net.constant(np.zeros((B, H))), net.constant(np.zeros((1, B, H))), list[str]()
    for time in range(T):
        back = net.op("ReduceSum", net.op("Sigmoid", tall), axes, keepdims=0)
        new = net.op("Add", net.op("MatMul", net.op("Mul", h, back), u), at(net, x, time))
        h = net.op("Add", h, net.op("Tanh", new))
        tall = net.op("Unsqueeze", h, axes)
        rows += [net.op("ReduceSum", tall, axes, keepdims=0)]
    net.output(stacked(net, rows))
    assert state_sizes(rolled(net.model())) == [(B, H)]
