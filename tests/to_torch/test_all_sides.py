"""Selections pass derivatives to all that they choose from, and leave values as they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import vjp, vmap
from torch.nn import functional

from lsc_graph.to_torch.all_sides import AllSides

SIDES = torch.tensor([[-3.0, 0.5, 7.0, 2.0], [0.0, -1.0, 9.0, 1.0]])
SELECTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "larger": torch.maximum,
    "smaller": torch.minimum,
    "rectified": lambda a, b: functional.relu(a - 100) + torch.relu(b - 100),
    "clipped": lambda a, b: torch.clamp(a, 100.0, 101.0) * torch.clamp(b, min=100.0),
    "clipped at": lambda a, b: torch.clamp(a, b, b + 1),
    "from zero": lambda a, b: torch.abs(a - a.detach()) + torch.abs(b - b.detach()),
    "one value on both sides": lambda a, b: torch.maximum(a, -a) + torch.maximum(b, 1 - b),
    "decided by a value": lambda a, b: torch.where(a.sum() > b.sum(), a, b),
    "decided by what follows": lambda a, b: torch.where(((a > b).float() + 1) > 1.5, a, b),
    "hidden from the start": lambda a, b: torch.maximum(a.masked_fill(a == a, -torch.inf), b) + 0 * a,
}


def reached(function: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> list[bool]:
    """Whether every element of either value is reached, by what is computed from both."""
    with AllSides() as sides:
        values, pull = vjp(function, a, b)
    torch.testing.assert_close(values, function(a, b), rtol=0, atol=0)
    assert sides.has_selected
    rows = torch.eye(values.numel()).reshape(-1, *values.shape)
    return [bool((found.abs().sum(0) > 0).all()) for found in vmap(pull)(rows)]


@pytest.mark.parametrize("name", [name for name in SELECTIONS if name != "hidden from the start"])
def test_both_sides_are_reached_wherever_the_selection_falls(name: str) -> None:
    a, b = SIDES
    assert reached(SELECTIONS[name], a, b) == [True, True]
    assert reached(SELECTIONS[name], b, a) == [True, True]


def test_sides_that_are_infinite_leave_values_as_they_are() -> None:
    assert reached(SELECTIONS["hidden from the start"], *SIDES)[1]


def test_selections_of_many_at_once() -> None:
    def function(a: Tensor, b: Tensor) -> Tensor:
        return vmap(lambda x, y: torch.where(x > y, torch.maximum(x, y), y))(a, b)

    assert reached(function, *SIDES) == [True, True]


def test_what_a_given_mask_hides_stays_hidden() -> None:
    mask = torch.tensor([True, False, True, False])
    with AllSides() as sides:
        _, pull = vjp(lambda a: torch.where(mask, a, 0.0), SIDES[0])
    assert torch.equal(pull(torch.ones(4))[0] != 0, mask)
    assert not sides.has_selected


def test_smooth_functions_keep_their_derivatives() -> None:
    with AllSides() as sides:
        _, pull = vjp(torch.tanh, SIDES[0])
    torch.testing.assert_close(pull(torch.ones(4))[0], 1 - SIDES[0].tanh() ** 2)
    assert not sides.has_selected
