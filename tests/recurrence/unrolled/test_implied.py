"""Where states start tells which of them are functions of others: PreNorm cells, as exporters write them."""

from __future__ import annotations

import numpy as np
import pytest
from unrolled_models import Unroller, at, stacked

from lsc_graph.audit_model import inspect

T, D, H = 6, 3, 4


def pre_norm(net: Unroller, offset: float, *, merges: bool, is_folded: bool) -> None:
    """Two layers h' = h + tanh(LN(h) U + x W), y = LN(h'), from zeros; equal norms may be merged."""
    x, weight = net.input("x", T, 1, D), net.weight(D, H)
    rows = [net.op("MatMul", at(net, x, time), weight) for time in range(T)]
    zeros = net.constant(np.zeros((1, H)))
    for _ in range(2):
        u, w, scale = net.weight(H, H), net.weight(H, H), net.weight(H)
        shift = net.constant(np.full(H, offset))
        start = net.constant(np.full((1, H), offset))
        h, normed, below = zeros, "", rows
        rows = []
        for drive in below:
            if not (normed and merges):
                normed = start if is_folded and h == zeros else net.op("LayerNormalization", h, scale, shift)
            h = net.op("Add", h, net.op("Tanh", net.op("Add", net.op("MatMul", normed, u), drive)))
            normed = net.op("LayerNormalization", h, scale, shift)
            rows.append(net.op("MatMul", normed, w))
    net.output(stacked(net, rows))


def state_sizes(net: Unroller) -> list[tuple[int, list[int]]]:
    return [
        (own.num_steps, [state.shape[-1] for state in own.states]) for own in inspect(net.model()).recurrences
    ]


@pytest.mark.parametrize("is_folded", [False, True])
@pytest.mark.parametrize("merges", [False, True])
def test_a_norm_that_starts_as_that_of_zeros_is_computed_again(*, merges: bool, is_folded: bool) -> None:
    net = Unroller()
    pre_norm(net, 0.5, merges=merges, is_folded=is_folded)
    assert state_sizes(net) == [(T, [H])] * 2


def test_a_norm_that_starts_from_zeros_as_the_state_does_may_be_one_beside_it() -> None:
    net = Unroller()
    pre_norm(net, 0.0, merges=True, is_folded=True)
    assert state_sizes(net) == [(T, [H, H])] * 2
