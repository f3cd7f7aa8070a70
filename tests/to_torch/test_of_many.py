"""What is chosen from many elements reaches all of them, in one mode for all selections."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import vjp, vmap
from torch.nn import functional

from lsc_graph.to_torch.all_sides import AllSides

# [B, C, T], with a clear winner at every place.
VALUES = torch.tensor([[[1.0, 9.0, 2.0, 3.0, 8.0, 0.0], [5.0, 1.0, 0.0, 4.0, 2.0, 7.0]]])


def reached(function: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """Which elements [outputs, inputs] each element of what is computed is reached from."""
    with AllSides() as sides:
        values, pull = vjp(function, value)
    torch.testing.assert_close(values, function(value), rtol=0, atol=0)
    assert sides.has_selected
    return vmap(pull)(torch.eye(values.numel()).reshape(-1, *values.shape))[0].flatten(1) != 0


MAXIMA: dict[str, Callable[[Tensor], Tensor]] = {
    "of all": lambda x: x.max(),
    "along an axis": lambda x: x.max(2).values,
    "along an axis, kept": lambda x: x.max(dim=-1, keepdim=True).values,
    "smallest": lambda x: torch.amin(x, 2),
    "the two largest": lambda x: torch.gather(x, 2, torch.argsort(-x, dim=2).narrow(2, 0, 2)),
    "a row that values decide": lambda x: torch.index_select(x, 2, x[0, 0].argmax().reshape(1)),
    "rows that values decide": lambda x: x.movedim(2, 0)[x[0, 0].argmax().reshape(1)],
}


@pytest.mark.parametrize("name", MAXIMA)
def test_every_time_that_could_be_chosen_is_reached(name: str) -> None:
    times = reached(MAXIMA[name], VALUES).reshape(-1, 2, 6)
    assert times.any(1).all()


@pytest.mark.parametrize(
    ("padding", "stride", "dilation"), [(0, 1, 1), (1, 1, 1), (1, 2, 1), (0, 3, 1), (1, 1, 2)]
)
@pytest.mark.parametrize("with_indices", [False, True])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_windows_are_reached_as_an_average_reaches_them(
    padding: int, stride: int, dilation: int, *, with_indices: bool, ceil_mode: bool
) -> None:
    def pooled(x: Tensor, power: float) -> Tensor:
        found = functional.max_pool1d(x**power, 3, stride, padding, dilation, ceil_mode, with_indices)
        return found[0] if with_indices else found

    found = reached(lambda x: pooled(x, 1.0), VALUES)
    # What is largest somewhere for some order of the elements is what can be chosen.
    orders = [torch.randperm(12, generator=torch.Generator().manual_seed(k)).float() for k in range(60)]
    wanted = torch.stack([_chosen(lambda x: pooled(x, 1.0), own.reshape(1, 2, 6)) for own in orders]).any(0)
    assert torch.equal(found, wanted)


def _chosen(function: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    values, pull = vjp(function, value)
    return vmap(pull)(torch.eye(values.numel()).reshape(-1, *values.shape))[0].flatten(1) != 0


def test_windows_in_two_dimensions() -> None:
    found = reached(lambda x: functional.max_pool2d(x, (2, 3), (2, 3)), VALUES)
    assert found.tolist() == [([True] * 3 + [False] * 3) * 2, ([False] * 3 + [True] * 3) * 2]


def test_a_maximum_that_is_taken_off_in_a_softmax_stays_as_it_is() -> None:
    mask = torch.tensor([0.0, 0.0, 0.0, -1e9, -1e9, -1e9])

    def softmax(x: Tensor) -> Tensor:
        scores = x + mask
        powers = torch.exp(torch.sub(scores, scores.max(2, keepdim=True).values))
        return powers / powers.sum(2, keepdim=True)

    with AllSides():
        values, pull = vjp(softmax, VALUES)
    plain, plain_pull = vjp(softmax, VALUES)
    rows = torch.eye(12).reshape(12, 1, 2, 6)
    assert torch.equal(vmap(pull)(rows)[0], vmap(plain_pull)(rows)[0])
    assert torch.equal(values, plain)


def test_the_power_of_a_maximum_alone_reaches_all() -> None:
    assert reached(lambda x: torch.exp(x.max(2).values), VALUES).sum() == 12


def test_an_index_that_is_given_reaches_what_stands_there() -> None:
    index = torch.tensor([1])
    with AllSides() as sides:
        _, pull = vjp(lambda x: torch.index_select(x, 2, index), VALUES)
    assert torch.equal(pull(torch.ones(1, 2, 1))[0] != 0, torch.tensor([[[0, 1, 0, 0, 0, 0]] * 2]).bool())
    assert not sides.has_selected
