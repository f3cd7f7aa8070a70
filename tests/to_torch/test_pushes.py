"""Black boxes under torch.func's jvp and vmap give the products that torch gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.func import jvp, vmap

from lsc_graph.to_torch.black_box import BlackBox
from lsc_graph.to_torch.differences import Differences

N, M = 5, 4
W = np.random.default_rng(0).standard_normal((N, M)).astype(np.float32)
Function = Callable[[Tensor, Tensor], Sequence[Tensor]]


def box() -> BlackBox:
    proto = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, {N}] a, float[{N}] b) => (bool[1, {N}] positive, float[1, {M}] y, float[1, {N}] z)
        {{
            c = Mul(a, b) z = Tanh(c) y = MatMul(z, w)
            zero = Constant<value = float {{0.0}}>() positive = Greater(a, zero)
        }}"""
    )
    proto.graph.initializer.append(numpy_helper.from_array(W, "w"))
    return BlackBox(proto, Differences())


def in_box(a: Tensor, b: Tensor, own: BlackBox | None = None) -> Sequence[Tensor]:
    return (own or box())(a, b)[1:]


def in_torch(a: Tensor, b: Tensor) -> Sequence[Tensor]:
    z = torch.tanh(a * b)
    return z @ torch.from_numpy(W), z


def agree(take: Callable[[Function], Sequence[Tensor]]) -> None:
    for mine, its in zip(take(in_box), take(in_torch), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-6)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_a_direction_of_both_inputs() -> None:
    agree(lambda f: jvp(f, (normal(1, N), normal(N)), (normal(1, N) + 1, normal(N) - 1))[1])


def test_many_directions_at_one_point() -> None:
    a, b, rows = normal(1, N), normal(N), normal(7, 1, N)
    agree(lambda f: vmap(lambda row: jvp(lambda own: f(own, b), (a,), (row,))[1])(rows))


def test_many_directions_at_many_points() -> None:
    a, b, rows = normal(3, 1, N), normal(N), normal(3, 7, 1, N)

    def at(f: Function, point: Tensor, own: Tensor) -> Sequence[Tensor]:
        return vmap(lambda row: jvp(lambda value: f(value, b), (point,), (row,))[1])(own)

    agree(lambda f: vmap(lambda point, own: at(f, point, own))(a, rows))


def test_a_direction_of_points_together_and_of_what_they_share() -> None:
    given = (normal(3, 1, N), normal(N)), (normal(3, 1, N) + 1, normal(N) - 1)
    agree(lambda f: jvp(lambda a, b: vmap(lambda own: f(own, b))(a), *given)[1])


def test_products_that_are_asked_for_again_cost_no_runs_and_change_within_their_bars() -> None:
    own = box()

    def pushed() -> Tensor:
        return jvp(lambda a: own(a, normal(N))[1], (normal(1, N),), (normal(1, N) + 1,))[1]

    first, count = pushed(), own.record.num_runs
    with own.record.changed():
        other, again = pushed(), pushed()
    assert own.record.num_runs == count
    assert torch.equal(other, again)
    bar = max(own.record.errors) * float(torch.cat([first.flatten(), torch.tanh(first).flatten()]).norm())
    assert float((other - first).norm()) <= 10 * bar + 1e-7
