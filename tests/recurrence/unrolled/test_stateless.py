"""A person says which values of unrolled steps are no states; the model itself shows whether it can be so."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from unrolled_models import Network, at, rolled

from lsc_graph.audit_model import audit
from lsc_graph.errors import UsageError
from lsc_graph.recurrence.unrolled.roll import RolledSteps

T, D, H = 6, 3, 4


def pre_norm(net: Network, shift: float = 0.0) -> onnx.ModelProto:
    """h' = h + tanh(LN(h) U + x W), y = LN(h')."""
    u, scale = net.weight(H, H), net.weight(H)
    offset = net.constant(np.full(H, shift))
    folded = net.constant(np.full((1, H), shift) @ net.initializers[u]) if shift else ""
    h, normed, rows = net.start("h", H), "", []
    for time in range(T):
        normed = normed or (h and net.op("LayerNormalization", h, scale, offset))
        read = net.op("MatMul", normed, u) if normed else folded
        h = net.sum(h, net.op("Tanh", net.sum(at(net, net.drives, time), read)))
        normed = net.op("LayerNormalization", h, scale, offset)
        rows.append(normed)
    return net.done(rows, rows)


def clockwork(net: Network) -> onnx.ModelProto:
    """a' = tanh(x W + [a, b] U), b' = b + sin(x W + [a, b] V), y = [a', b']."""
    u, v = net.weight(2 * H, H), net.weight(2 * H, H)
    a, b, both, rows = net.start("a", H), net.start("b", H), "", []
    for time in range(T):
        drive = at(net, net.drives, time)
        both = both or (a and net.op("Concat", a, b, axis=-1))
        a = net.op("Tanh", net.sum(drive, both and net.op("MatMul", both, u)))
        b = net.sum(b, net.op("Sin", net.sum(drive, both and net.op("MatMul", both, v))))
        both = net.op("Concat", a, b, axis=-1)
        rows.append(both)
    return net.done(rows, rows)


def widths(steps: RolledSteps) -> list[int]:
    body = steps.rolled.scan.attributes["body"].as_graph()
    states = body.inputs[: len(steps.rolled.state_names)]
    return [int(value.shape[-1]) for value in states if value.shape is not None]


CASES = {
    "a function of one state": (lambda net: pre_norm(net), [H, H], [H]),
    "a function that is not zero at zero": (lambda net: pre_norm(net, 0.5), [H, H], [H]),
    "a state beside one that it holds": (lambda net: clockwork(net), [H, H], [H, H]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("step", [1, T // 2])
def test_what_is_no_state_is_computed_again(name: str, step: int) -> None:
    build, before, after = CASES[name]
    net = Network(is_given=False)
    proto = build(net)
    assert sorted(widths(rolled(proto))) == sorted(before)
    steps = rolled(proto, net.names[step])
    assert (steps.num_steps, widths(steps), steps.made.stateless) == (T, after, (net.names[step],))


@pytest.mark.parametrize("name", CASES)
def test_radii_and_gains_are_those_of_the_network_whose_states_are_given(name: str) -> None:
    build, _, after = CASES[name]
    net, given = Network(is_given=False), Network(is_given=True)
    proto, other = build(net), build(given)
    data = {"x": np.random.default_rng(0).standard_normal((1, T, 1, D)).astype(np.float32)}
    zeros = {v.name: np.zeros((1, 1, H), np.float32) for v in other.graph.input if v.name != "x"}
    found = audit(proto, data=data, states=[(net.names[2], "none")], num_samples=1)
    expected = audit(other, data=data | zeros, num_samples=1)
    assert [layer.state_size for layer in found.layers] == [sum(after)]
    assert found.recurrences[0].chosen == (f"{net.names[2]}:none",)
    assert found.grid == expected.grid
    for own, wanted in zip(found.layers, expected.layers, strict=True):
        for one, two in ((own.time_radius, wanted.time_radius), (own.time_gain, wanted.time_gain)):
            assert one is not None
            assert two is not None
            assert one.mean == pytest.approx(two.mean, rel=1e-5)
    assert not [warning for warning in found.warnings if "take over both" in warning]


def test_a_choice_that_cannot_be_is_refused_by_name() -> None:
    net = Network(is_given=False)
    proto = pre_norm(net)
    adds = [node.output[0] for node in proto.graph.node if node.op_type == "Add"]
    tanhs = [node.output[0] for node in proto.graph.node if node.op_type == "Tanh"]
    with pytest.raises(UsageError, match=f"{adds[3]}:none; nothing else that is as small determines it"):
        rolled(proto, adds[3])
    with pytest.raises(UsageError, match=f"{tanhs[3]}:none; no step takes it over"):
        rolled(proto, tanhs[3])


def test_what_starts_from_something_else_has_to_be_a_state() -> None:
    """Spikes of voltages; the first ones are given, and are not those of the first voltages."""
    net = Network(is_given=True)
    v, z, u, rows = net.input("v", 1, H), net.input("z", 1, H), net.weight(H, H), list[str]()
    for time in range(T):
        v = net.sum(v, at(net, net.drives, time), net.op("MatMul", z, u))
        z = net.op("Sigmoid", v)
        rows.append(z)
    proto = net.done(rows, rows)
    with pytest.raises(UsageError, match="the steps compute something else if they begin without it"):
        rolled(proto, rows[2])


def test_a_value_that_is_handed_on_twice_has_to_be_a_state() -> None:
    net = Network(is_given=True)
    h, before = net.input("h", 1, H), net.input("before", 1, H)
    u, v, rows = net.weight(H, H), net.weight(H, H), list[str]()
    for time in range(T):
        known = net.sum(net.op("MatMul", h, u), net.op("MatMul", before, v))
        h, before = net.op("Tanh", net.sum(at(net, net.drives, time), known)), h
        rows.append(h)
    proto = net.done(rows, rows)
    with pytest.raises(UsageError, match="more than one step"):
        rolled(proto, rows[3])


@pytest.mark.parametrize("is_given", [False, True])
def test_an_activation_that_is_no_state_leaves_the_pre_activation_as_the_state(*, is_given: bool) -> None:
    """u' = tanh(u) U + x W, y = tanh(u'): from zeros this is the file of a plain RNN, and is read as such."""
    net = Network(is_given=is_given)
    u, rows = net.weight(H, H), list[str]()
    state, active = net.start("u", H), ""
    for time in range(T):
        active = active or (state and net.op("Tanh", state))
        state = net.sum(at(net, net.drives, time), active and net.op("MatMul", active, u))
        active = net.op("Tanh", state)
        rows.append(active)
    proto = net.done(rows, rows)
    (state_name,) = rolled(proto).rolled.state_names
    assert ("tanh" in state_name) == (not is_given)
    if not is_given:
        steps = rolled(proto, rows[2])
        assert (steps.num_steps, widths(steps)) == (T, [H])
        assert all("tanh" not in name for name in steps.rolled.state_names)
