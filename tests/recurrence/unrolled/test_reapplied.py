"""A weight that a step applies to its new state twice, and the file once: which value is the state."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from unrolled_models import Network, at, rolled

from lsc_graph.audit_model import audit, inspect
from lsc_graph.results import Analysis

T, H = 6, 4


def doubly_used(*, is_given: bool, with_bias: bool = False, is_scaled: bool = False) -> onnx.ModelProto:
    """Two layers h' = tanh(x W + h U), each of which gives h' sigmoid(h' U): h' U is computed once."""
    net = Network(is_given=is_given, num_steps=T)
    rows = [at(net, net.drives, time) for time in range(T)]
    for layer in range(2):
        u, bias, h = net.weight(H, H), net.weight(H), net.start(f"h{layer}", H)

        def product(value: str, u: str = u, bias: str = bias) -> str:
            scaled = net.op("Mul", value, bias) if is_scaled else net.op("MatMul", value, u)
            return net.op("Add", scaled, bias) if with_bias else scaled

        fed = product(h) if h else bias * with_bias
        for time in range(T):
            h = net.op("Tanh", net.sum(rows[time], fed))
            fed = product(h)
            rows[time] = net.op("Mul", h, net.op("Sigmoid", fed))
    return net.done(rows, [])


@pytest.mark.parametrize("with_bias", [False, True])
def test_the_state_is_what_the_weight_is_applied_to_wherever_the_steps_start(*, with_bias: bool) -> None:
    found = [audit(doubly_used(is_given=own, with_bias=with_bias), num_samples=1) for own in (True, False)]
    assert [own.grid.num_gradient_paths for own in found] == [str(T)] * 2
    named = [[warning for warning in own.warnings if "--state" in warning] for own in found]
    assert [len(own) for own in named] == [0, 2]
    assert all("which is made of that: path counts" in warning for warning in named[1])


def test_the_product_can_be_chosen_as_the_state() -> None:
    proto = doubly_used(is_given=False)
    told = [warning for warning in inspect(proto).warnings if "--state" in warning]
    texts = [warning.split("--state ")[1].split()[0] for warning in told]
    before, after = zip(*(text.split(":") for text in texts), strict=True)
    found = audit(proto, num_samples=1, states=list(zip(before, after, strict=True)))
    assert int(found.grid.num_gradient_paths or 0) == 2 * T - 1
    assert [recurrence.chosen for recurrence in found.recurrences] == [(text,) for text in texts]
    assert not any("--state" in warning for warning in found.warnings)


def test_a_product_that_the_steps_do_not_start_from_zeros_is_the_state() -> None:
    net = Network(is_given=False, num_steps=T)
    u, fed, rows = net.weight(H, H), net.constant([[0.3, -0.2, 0.5, 0.1]]), []
    for time in range(T):
        h = net.op("Tanh", net.sum(at(net, net.drives, time), fed))
        fed = net.op("MatMul", h, u)
        rows.append(net.op("Mul", h, net.op("Sigmoid", fed)))
    proto = net.done(rows, [])
    assert rolled(proto).open == ()
    assert not any("--state" in warning for warning in inspect(proto).warnings)


def test_a_state_that_is_only_scaled_stays_what_it_is() -> None:
    warnings = inspect(doubly_used(is_given=False, is_scaled=True)).warnings
    assert not any("which is made of" in warning for warning in warnings)


def fed_back(start: str, *, is_computed_twice: bool = False) -> onnx.ModelProto:
    """Two layers h' = tanh(x W + h U), each of which gives h' U; the first h is given, zeros, or left out."""
    net = Network(is_given=start == "given", num_steps=T)
    rows = [at(net, net.drives, time) for time in range(T)]
    for layer in range(2):
        u, h = net.weight(H, H), net.start(f"h{layer}", H)
        h = net.constant(np.zeros((1, H))) if start == "zeros" else h
        fed = net.op("MatMul", h, u) if h else ""
        for time in range(T):
            h = net.op("Tanh", net.sum(rows[time], fed))
            rows[time] = net.op("MatMul", h, u)
            fed = net.op("MatMul", h, u) if is_computed_twice else rows[time]
    return net.done(rows, [])


def test_an_output_that_is_fed_back_is_named_as_one_of_two_readings() -> None:
    wanted = audit(fed_back("given"), data=_zeros(), num_samples=1)
    proto = fed_back("left out")
    told = [warning for warning in inspect(proto).warnings if "of which a weight makes it" in warning]
    assert len(told) == 2
    pairs = [warning.split("--state ")[1].split()[0].split(":") for warning in told]
    found = audit(proto, data=_zeros(inputs=("x",)), num_samples=1, states=[(a, b) for a, b in pairs])
    assert not any("--state" in warning for warning in found.warnings)
    assert _numbers(found) == pytest.approx(_numbers(wanted), abs=1e-5)


@pytest.mark.parametrize("is_computed_twice", [False, True])
def test_a_product_with_zeros_in_the_file_tells_what_the_steps_start_from(*, is_computed_twice: bool) -> None:
    wanted = audit(fed_back("given"), data=_zeros(), num_samples=1)
    proto = fed_back("zeros", is_computed_twice=is_computed_twice)
    found = audit(proto, data=_zeros(inputs=("x",)), num_samples=1)
    assert not any("--state" in warning for warning in found.warnings)
    assert found.grid.num_gradient_paths == wanted.grid.num_gradient_paths == str(T)
    assert _numbers(found) == pytest.approx(_numbers(wanted), abs=1e-5)


def _zeros(inputs: tuple[str, ...] = ("x", "h0", "h1")) -> dict[str, np.ndarray]:
    """The same sequence for all, and states that start from zeros."""
    x = np.random.default_rng(0).standard_normal((1, T, 1, 3)).astype(np.float32)
    given = {"x": x, **dict.fromkeys(("h0", "h1"), np.zeros((1, 1, H), np.float32))}
    return {name: given[name] for name in inputs}


def _numbers(found: Analysis) -> list[float]:
    read = [
        m for own in found.layers for m in (own.time_radius, own.time_gain, own.depth_radius, own.depth_gain)
    ]
    return [measured.mean for measured in read if measured is not None]
