"""What unknowns there are, what they do to weights, and how far each is trusted."""

from __future__ import annotations

import torch

from lsc_graph.pretraining.trainable import Weight
from lsc_graph.pretraining.unknowns import Change, Unknowns

GENERATOR = torch.Generator().manual_seed(0)
MATRIX = Weight(("w",), ("w",), torch.randn(4, 4, generator=GENERATOR))
BIAS = Weight(("b",), ("b",), torch.randn(4, generator=GENERATOR))
ZEROS = Weight(("z",), ("z",), torch.zeros(4))
RATES = Weight(("r",), ("r",), torch.randn(4, generator=GENERATOR))
DELTA = torch.tensor([0.0, 1.0, 4.0, 2.0])


def unknowns() -> Unknowns:
    return Unknowns([MATRIX, BIAS, ZEROS, RATES], {4}, {3: DELTA})


def test_matrices_are_scaled_vectors_also_shifted_zeros_shifted_alone_and_transitions_are_one() -> None:
    found = [(unknown.weight, unknown.change) for unknown in unknowns().list]
    assert found == [
        (0, Change.SCALE),
        (1, Change.SHIFT),
        (1, Change.SCALE),
        (2, Change.SHIFT),
        (3, Change.TRANSITION),
    ]


def test_the_weights_follow_the_unknowns() -> None:
    values = [weight.value for weight in (MATRIX, BIAS, ZEROS, RATES)]
    changed = unknowns().apply(values, torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]))
    expected = [
        values[0] * torch.tensor(0.1).exp(),
        values[1] * torch.tensor(0.3).exp() + 0.2,
        torch.full((4,), 0.4),
        values[3] + 0.5 * DELTA,
    ]
    for own, other in zip(changed, expected, strict=True):
        torch.testing.assert_close(own, other)


def test_shifts_are_trusted_for_one_unit_and_factors_for_about_two() -> None:
    units = torch.tensor([0.5, 0.1, 0.2, 1.0, 0.3], dtype=torch.float64)
    found = unknowns().limits(units)
    torch.testing.assert_close(found, torch.tensor([0.7, 0.1, 0.7, 1.0, 0.7], dtype=torch.float64))


def test_the_ways_of_transitions_are_read_and_replaced_by_the_number_of_their_weight() -> None:
    step = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    assert unknowns().ways(step) == {3: 0.5}
    torch.testing.assert_close(unknowns().with_ways(step, {3: 0.2}), torch.tensor([0.1, 0.2, 0.3, 0.4, 0.2]))


def test_slopes_are_the_derivatives_of_the_weights_along_the_unknowns() -> None:
    values = [weight.value for weight in (MATRIX, BIAS, ZEROS, RATES)]
    leaves = [value.clone().requires_grad_() for value in values]
    gradients = torch.autograd.grad(sum((leaf.sin() * 2).sum() for leaf in leaves), leaves)
    at = torch.zeros(5, requires_grad=True)
    sum((value.sin() * 2).sum() for value in unknowns().apply(values, at)).backward()
    assert at.grad is not None
    torch.testing.assert_close(unknowns().slopes(values, gradients).float(), at.grad)
