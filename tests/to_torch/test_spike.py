"""Values of a threshold are exact, and its derivative is the surrogate's."""

from __future__ import annotations

import pytest
import torch
from torch.func import jvp, vjp, vmap

from lsc_graph.to_torch.spike import PRIMITIVES, sign, spike

DAMPENING, SHARPNESS = 0.7, 3.0
FORMULAS = {
    "fast-sigmoid": lambda u: DAMPENING / (1 + SHARPNESS * u.abs()) ** 2,
    "triangle": lambda u: DAMPENING * (1 - SHARPNESS * u.abs()).clamp(min=0),
    "exponential": lambda u: DAMPENING * torch.exp(-SHARPNESS * u.abs()),
}
COMPARISONS = {"Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt, "LessOrEqual": torch.le}
U = torch.tensor([-3.0, -0.3, -0.01, 0.0, 0.02, 0.29, 2.0], dtype=torch.float64)
THRESHOLD = torch.full_like(U, 0.25)


def test_every_surrogate_has_a_formula() -> None:
    assert FORMULAS.keys() == PRIMITIVES.keys()


@pytest.mark.parametrize("surrogate", FORMULAS)
@pytest.mark.parametrize("kind", COMPARISONS)
def test_values_are_those_of_the_comparison_and_derivatives_those_of_the_surrogate(
    kind: str, surrogate: str
) -> None:
    v = U + THRESHOLD

    def fire(value: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
        return spike(value, threshold, kind, surrogate, DAMPENING, SHARPNESS)

    assert torch.equal(fire(v, THRESHOLD), COMPARISONS[kind](v, THRESHOLD).double())
    _, pull = vjp(fire, v, THRESHOLD)
    by_value, by_threshold = pull(torch.ones_like(v))
    way = 1 if kind.startswith("Greater") else -1
    torch.testing.assert_close(by_value, way * FORMULAS[surrogate](v - THRESHOLD))
    torch.testing.assert_close(by_threshold, -by_value)


@pytest.mark.parametrize("surrogate", FORMULAS)
def test_forward_mode_and_batches_of_points_give_the_same(surrogate: str) -> None:
    def fire(value: torch.Tensor) -> torch.Tensor:
        return spike(value, torch.zeros_like(value), "Greater", surrogate, DAMPENING, SHARPNESS)

    _, forward = jvp(fire, (U,), (torch.ones_like(U),))
    torch.testing.assert_close(forward, FORMULAS[surrogate](U))
    torch.testing.assert_close(vmap(lambda u: vjp(fire, u)[1](torch.ones_like(u))[0])(U), forward)


@pytest.mark.parametrize("surrogate", FORMULAS)
def test_a_sign_steps_by_two(surrogate: str) -> None:
    value, pull = vjp(lambda u: sign(u, surrogate, DAMPENING, SHARPNESS), U)
    assert torch.equal(value, torch.sign(U))
    torch.testing.assert_close(pull(torch.ones_like(U))[0], 2 * FORMULAS[surrogate](U))
