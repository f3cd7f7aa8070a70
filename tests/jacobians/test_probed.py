"""Gains by probes: few rows and few singular values are no worse known than many."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lsc_graph.jacobians.probed import ENOUGH, ProbedGain, probed_gain
from lsc_graph.jacobians.radius import gain

NUM_PROBES = 16


def probed(matrices: Tensor, *, has_transpose: bool = True) -> tuple[ProbedGain, int]:
    """The gains by probes, and how many cotangents were pulled back at each point."""
    seen: list[int] = []

    def pull(probes: Tensor) -> Tensor:
        seen.append(probes.shape[1])
        found = probes @ matrices
        return found if has_transpose else found.detach()

    num_points, *shape = matrices.shape
    generator = torch.Generator().manual_seed(0)
    return probed_gain(pull, num_points, (shape[0], shape[1]), NUM_PROBES, generator), sum(seen)


def found_and_pulled(matrices: Tensor) -> tuple[Tensor, int]:
    found, pulled = probed(matrices)
    return found.values, pulled


@pytest.fixture
def draw() -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return drawn


@pytest.mark.parametrize("rows", [1, 5, NUM_PROBES])
def test_few_rows_are_seen_exactly(rows: int, draw: Callable[..., Tensor]) -> None:
    matrices = draw(3, rows, 400)
    found, pulled = found_and_pulled(matrices)
    assert torch.allclose(found, gain(matrices))
    assert pulled == rows


@pytest.mark.parametrize(("points", "rows"), [(200, 100), (3, 1000)])
def test_a_mean_over_units_is_seen_exactly(points: int, rows: int, draw: Callable[..., Tensor]) -> None:
    matrices = draw(points, rows, 1) @ draw(points, 1, rows)
    found, pulled = found_and_pulled(matrices)
    assert torch.allclose(found, gain(matrices))
    assert pulled == NUM_PROBES + rows


@pytest.mark.parametrize("rank", [1, 3, 40])
def test_a_few_singular_values_of_many_rows_are_seen_to_a_percent(
    rank: int, draw: Callable[..., Tensor]
) -> None:
    matrices = draw(40, 300, rank) @ draw(40, rank, 300) + 0.01 * draw(40, 300, 300)
    found, pulled = probed(matrices)
    off = (found.values / gain(matrices)).log()
    assert float(off.square().mean().sqrt()) < ENOUGH
    assert float(found.errors.max()) <= ENOUGH
    assert pulled <= 256


def test_without_products_with_the_matrix_more_probes_tell_how_well_they_know_it(
    draw: Callable[..., Tensor],
) -> None:
    matrices = draw(60, 300, 1) @ draw(60, 1, 300)
    found, pulled = probed(matrices, has_transpose=False)
    off = (found.values / gain(matrices)).log()
    assert 0.7 < float((off / found.errors).std()) < 1.4
    assert 0.03 < float(found.errors.mean()) < 0.06
    assert pulled <= 256 + NUM_PROBES


@pytest.mark.parametrize(("rows", "columns"), [(300, 400), (1100, 20)])
def test_errors_are_those_of_the_gains(rows: int, columns: int, draw: Callable[..., Tensor]) -> None:
    matrices = draw(40, rows, columns) * torch.linspace(0, 1, columns, dtype=torch.float64) ** 8
    found, _ = probed(matrices)
    off = (found.values / gain(matrices)).log()
    assert float(found.errors.max()) <= ENOUGH
    assert float(off.square().mean().sqrt()) <= 1.4 * float(found.errors.max())


def test_the_first_probes_are_enough_for_many_singular_values(draw: Callable[..., Tensor]) -> None:
    matrices = draw(4, 300, 300) / 300**0.5
    matrices[3] = 0
    found, pulled = found_and_pulled(matrices)
    assert torch.allclose(found, gain(matrices), rtol=0.03)
    assert pulled <= 6 * NUM_PROBES
