"""Parallel scans join times by pairs: what follows at one of their levels is no recurrence over the times."""

from __future__ import annotations

import numpy as np
import pytest
from unrolled_models import Unroller

from lsc_graph.audit_model import audit

H = 3
SHAPES = {"vector": (1, 1, H), "matrix": (1, 2, H)}


def every_other(net: Unroller, value: str, start: int, size: int) -> str:
    bounds = [net.constant([number]) for number in (start, size, 0, 2)]
    return net.op("Slice", value, *bounds)


def part(net: Unroller, value: str, start: int, stop: int) -> str:
    return net.op("Slice", value, *(net.constant([number]) for number in (start, stop, 0)))


def interleaved(net: Unroller, even: str, odd: str, size: int) -> str:
    """even[0], odd[0], even[1], ... of sequences as long, or of an even one that is longer by one."""
    pieces = [part(net, (even, odd)[k % 2], k // 2, k // 2 + 1) for k in range(size)]
    return net.op("Concat", *pieces, axis=0)


def scanned(net: Unroller, decay: np.ndarray, value: str, size: int) -> str:
    """y[t] = a y[t-1] + x[t] as a tree over pairs of times, as parallel scans are written."""
    if size < 2:
        return value
    a = net.constant(decay)
    half = size // 2
    first, second = (every_other(net, value, k, 2 * half) for k in range(2))
    odd = scanned(net, decay**2, net.op("Add", net.op("Mul", a, first), second), half)
    rest = (size - 1) // 2
    later = every_other(net, value, 2, size)
    before = odd if rest == half else part(net, odd, 0, rest)
    even = net.op("Add", net.op("Mul", a, before), later)
    even = net.op("Concat", part(net, value, 0, 1), even, axis=0) if rest else part(net, value, 0, 1)
    return interleaved(net, even, odd, size)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("num_steps", [4, 6, 7, 8, 12])
def test_a_tree_of_any_length_is_a_layer_without_a_cell(num_steps: int, shape: tuple[int, ...]) -> None:
    net = Unroller()
    drives = net.op("MatMul", net.input("x", num_steps, *shape[1:-1], 2), net.weight(2, H))
    decay = np.linspace(0.3, 0.8, int(np.prod(shape))).reshape(shape)
    net.output(scanned(net, decay, drives, num_steps))
    found = audit(net.model(), num_samples=1)
    assert found.recurrences == ()
    (layer,) = found.time_parallel
    assert (layer.num_steps, layer.reach) == (num_steps, num_steps - 1)


def test_steps_that_read_sums_of_pairs_are_steps() -> None:
    """h' = tanh(x[2 t] + x[2 t + 1] + a h), three times from zeros."""
    net = Unroller()
    drives = net.op("MatMul", net.input("x", 6, 1, 2), net.weight(2, H))
    pairs = net.op("Add", *(every_other(net, drives, k, 6) for k in range(2)))
    a, h, rows = net.constant(np.linspace(0.3, 0.8, H)), "", list[str]()
    for time in range(3):
        h = net.op("Tanh", net.sum(part(net, pairs, time, time + 1), h and net.op("Mul", a, h)))
        rows.append(h)
    net.output(net.op("Concat", *rows, axis=0))
    assert [own.num_steps for own in audit(net.model(), num_samples=1).recurrences] == [3]
