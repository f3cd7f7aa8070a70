"""A stabiliser's gradient cancels to rounding: growth is that of the other layers, and the report says so."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from unrolled_models import Unroller, at, stacked

from lsc_graph.audit_model import audit
from lsc_graph.jacobians.meter import cancelled_depths
from lsc_graph.results import GrowthPoint

T, D, H = 8, 3, 4


def point(dt: int, dl: int, measured: float | None, signed: float | None) -> GrowthPoint:
    return GrowthPoint(dt, dl, 0.0, measured, None, None, None, random_sign_log10=signed)


@pytest.mark.parametrize(
    ("measured", "signed", "expected"),
    [(-9.0, -1.0, (1,)), (None, -1.0, (1,)), (-3.0, -1.0, ()), (-9.0, None, ()), (-9.0, -8.0, ())],
)
def test_only_what_is_far_below_unrelated_paths_is_cancelled(
    measured: float | None, signed: float | None, expected: tuple[int, ...]
) -> None:
    table = [point(dt, 1, measured, signed) for dt in range(4)] + [
        point(dt, 0, -1.0, -1.0) for dt in range(4)
    ]
    assert cancelled_depths(table) == expected


def stabilised() -> onnx.ModelProto:
    """m' = max(m + f, i), a' = exp(f + m - m') a + exp(i - m') v, as in RWKV and the matrix cell of xLSTM."""
    net = Unroller()
    x = net.input("x", T, 1, D)
    forget = net.op("Neg", net.op("Softplus", net.op("MatMul", x, net.weight(D, H))))
    gate, value = (net.op("MatMul", x, net.weight(D, H)) for _ in range(2))
    m, a, rows = net.constant(np.zeros((1, H))), net.constant(np.ones((1, H))), []
    for time in range(T):
        kept = net.op("Add", m, at(net, forget, time))
        m = net.op("Max", kept, at(net, gate, time))
        old = net.op("Mul", net.op("Exp", net.op("Sub", kept, m)), a)
        new = net.op("Mul", net.op("Exp", net.op("Sub", at(net, gate, time), m)), at(net, value, time))
        a = net.op("Add", old, new)
        rows.append(a)
    net.output(stacked(net, rows))
    return net.model()


def test_a_stabiliser_is_found_and_no_growth_is_measured_from_it() -> None:
    found = audit(stabilised(), num_samples=2)
    assert [layer.state_size for layer in found.layers] == [H, H]
    assert found.growth.dl == 0
    assert found.growth.measured_log10 is not None
    assert found.growth.measured_log10 > -5
    assert sum("cancels to rounding" in warning for warning in found.warnings) == 1
    assert all("interfere" not in reason for reason in found.verdict.reasons)
