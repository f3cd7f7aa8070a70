"""Radii and gains of matrices that only multiply directions, and inexactly."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from lsc_graph.errors import LimitExceededError
from lsc_graph.jacobians import pushes
from lsc_graph.jacobians.pushes import Pushes

N, P = 300, 3


def known(matrices: Tensor, noise: float = 0.0) -> Pushes:
    """As if each product were off by so much of its length, the same for the same direction."""

    def push(numbers: Sequence[int], directions: Tensor) -> Tensor:
        found = torch.einsum("poi,pki->pko", matrices[list(numbers)], directions)
        seed = int(directions.double().abs().sum() * 1e6) % 2**31
        random = torch.randn(found.shape, generator=torch.Generator().manual_seed(seed))
        return found + noise * found.norm(dim=2, keepdim=True) * random / found.shape[2] ** 0.5

    pairs = tuple((time, time + 1) for time in range(len(matrices)))
    return Pushes("a", "a", pairs, tuple(matrices.shape[1:]), push, matrices)


def matrices(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    found = 0.5 * torch.randn(P, N, N, generator=generator) / N**0.5
    found[:, 0, 0] += 1.5
    return found


@pytest.mark.parametrize("noise", [0.0, 1e-4, 1e-3])
def test_radii_are_within_errors_and_bars(noise: float) -> None:
    own = matrices()
    estimate, bars = known(own, noise).radius(range(P), known(own, 2 * noise))
    exact = torch.linalg.eigvals(own.double()).abs().amax(1)
    assert bool(estimate.converged.all())
    assert bool(((estimate.values - exact).abs() <= estimate.errors * exact + bars).all())
    assert bool((bars < 20 * noise * exact + 1e-5).all())


def test_products_of_nothing_but_noise_are_not_taken_for_converged() -> None:
    estimate, _ = known(matrices(), 0.3).radius(range(P), None)
    assert not bool(estimate.converged.any())


def test_gains_are_those_of_the_matrices() -> None:
    own = matrices()
    found = known(own).gain(range(P), 16, torch.Generator().manual_seed(0))
    exact = torch.linalg.matrix_norm(own.double()) / N**0.5
    assert found.values == pytest.approx(exact, rel=0.1)


def test_narrow_blocks_are_built() -> None:
    own = matrices()[:, :, :10].contiguous()
    built = known(own).dense([2, 0])
    assert built is not None
    torch.testing.assert_close(built, own[[2, 0]])
    assert known(matrices()).dense([0]) is None


def test_bases_that_do_not_fit_are_refused_with_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushes, "MAX_BYTES", 15 * N * 4 * P)
    with pytest.raises(LimitExceededError, match="300 elements at 3 points"):
        known(matrices()).radius(range(P), None)


def test_what_is_entered_for_a_map_is_entered_for_each_product() -> None:
    entered = []

    def enter() -> nullcontext[None]:
        entered.append(1)
        return nullcontext()

    known(matrices()).within(enter).push([0], torch.ones(1, 2, N))
    assert entered == [1]
