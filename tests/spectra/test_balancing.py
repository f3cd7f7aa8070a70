"""States in unlike units, and groups that only drive others, leave eigenvalues as well known as they are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lsc_graph.spectra.balancing import balanced, in_range
from lsc_graph.spectra.dense import dense_radius

SIZE = 24


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / SIZE**0.5


def in_unlike_units() -> Tensor:
    units = torch.logspace(-4, 4, SIZE, dtype=torch.float64)
    return units[:, None] * normal(3, SIZE, SIZE) / units


def driven() -> Tensor:
    """Two groups of which the second drives the first, and much more strongly than these drive themselves."""
    matrices = normal(3, 2 * SIZE, 2 * SIZE)
    matrices[:, :SIZE, SIZE:] *= 1e5
    matrices[:, SIZE:, :SIZE] = 0
    return matrices


@pytest.mark.parametrize("make", [in_unlike_units, driven])
def test_balanced_matrices_have_the_same_eigenvalues_and_are_not_long(make: object) -> None:
    assert callable(make)
    matrices = make()
    found = balanced(matrices)
    size = matrices.shape[-1]
    values, expected = (torch.linalg.eigvals(own).abs().amax(1) for own in (found, matrices))
    torch.testing.assert_close(values, expected, rtol=1e-6, atol=0)
    for power in (1, 2, 5):
        traces = [
            torch.linalg.matrix_power(own, power).diagonal(dim1=1, dim2=2).sum(1) for own in (found, matrices)
        ]
        torch.testing.assert_close(*traces, rtol=1e-6, atol=1e-6)
    assert float(torch.linalg.matrix_norm(found).max()) < 4 * size**0.5
    assert float(torch.linalg.matrix_norm(matrices).max()) > 1e4


def test_units_that_only_read_or_are_only_read_stand_alone() -> None:
    """A chain of units with leaks of their own: its eigenvalues are the leaks, however strong its links."""
    matrix = torch.diag(torch.linspace(0.1, 0.9, SIZE, dtype=torch.float64))
    matrix += torch.diag(torch.full((SIZE - 1,), 1e6, dtype=torch.float64), -1)
    assert torch.equal(balanced(matrix[None])[0], torch.diag(matrix.diagonal()))


@pytest.mark.parametrize("make", [in_unlike_units, driven])
def test_radii_in_single_precision_are_known_in_any_units(make: object) -> None:
    assert callable(make)
    matrices = make()
    exact = torch.linalg.eigvals(balanced(matrices)).abs().amax(1)
    found = dense_radius(matrices.float())
    assert bool(found.converged.all())
    off = (found.values - exact).abs() / exact
    assert bool((off <= found.errors).all())
    assert float(found.conditions.max()) > 100


def test_an_eigenvalue_that_is_ill_conditioned_in_every_unit_stays_unknown() -> None:
    block = torch.eye(SIZE) + torch.diag(torch.ones(SIZE - 1), -1)
    block[0, -1] = 1e-7
    found = dense_radius(block[None])
    assert not bool(found.converged.any())


def test_elements_are_brought_in_range_by_powers_of_two_up_to_the_largest_float() -> None:
    most = torch.finfo(torch.float64).max
    matrices = torch.tensor([most, 4.0, 3.9, 1e-310, 0.0], dtype=torch.float64)[:, None, None]
    unit, scales = in_range(matrices)
    assert scales[1:].tolist() == [4.0, 2.0, 2.0**-1030, 0.5]
    assert bool(((unit >= 1) & (unit < 2))[:4].all())
    torch.testing.assert_close(unit[:, 0, 0] * scales, matrices[:, 0, 0], rtol=0, atol=0)
