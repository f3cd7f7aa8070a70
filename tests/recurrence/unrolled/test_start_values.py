"""Recurrences that start from one state have all their steps, though they begin with one operator."""

from __future__ import annotations

import onnx
import pytest
from unrolled_models import Network, at, stacked

from lsc_graph.audit_model import audit

D, H, T = 3, 4, 6
CELLS = ("Tanh", "Neg", "Transpose")


def two_from_one_start(first: str, *, is_given: bool = True, is_shared: bool = False) -> onnx.ModelProto:
    """h' = tanh(x W + f(h) U) up and down the times, each with its own U, or one; f of the start is written
    once.
    """
    net = Network(is_given=True, num_steps=T, num_inputs=D, num_units=H)
    start, begun = net.start("h", H) if is_given else net.weight(1, H), dict[str, str]()
    up = net.weight(H, H)
    down = up if is_shared else net.weight(H, H)

    def applied(value: str) -> str:
        if value not in begun:
            begun[value] = net.op(first, value)
        return begun[value]

    def product(value: str, u: str) -> str:
        if first != "Transpose":
            return net.op("MatMul", applied(value), u)
        return net.op("Transpose", net.op("MatMul", u, applied(value)))

    rows: list[list[str]] = []
    for u, times in ((up, range(T)), (down, range(T - 1, -1, -1))):
        h, states = start, dict[int, str]()
        for time in times:
            h = states[time] = net.op("Tanh", net.op("Add", at(net, net.drives, time), product(h, u)))
        rows.append([states[time] for time in range(T)])
    net.output(net.op("Concat", *(stacked(net, own) for own in rows), axis=2))
    return net.model()


@pytest.mark.parametrize("first", CELLS)
@pytest.mark.parametrize("is_shared", [False, True])
def test_two_recurrences_from_one_constant_have_all_their_steps(first: str, *, is_shared: bool) -> None:
    found = audit(two_from_one_start(first, is_given=False, is_shared=is_shared), num_samples=1)
    assert [own.num_steps for own in found.recurrences] == [T, T]
    assert not any("computed in another way" in text for text in found.warnings)


@pytest.mark.parametrize("first", CELLS)
def test_what_both_compute_from_the_start_takes_no_step_from_the_second(first: str) -> None:
    found = audit(two_from_one_start(first), num_samples=1)
    assert [own.num_steps for own in found.recurrences] == [T, T]
    assert sorted(own.direction for own in found.recurrences) == ["forward", "reverse"]
    assert not any("computed in another way" in text for text in found.warnings)
    assert [own.time_radius and own.time_radius.num_points for own in found.layers] == [T - 1, T - 1]
    assert found.grid.num_gradient_paths == "2"
