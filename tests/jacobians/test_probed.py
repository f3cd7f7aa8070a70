"""Gains by probes: few rows and few singular values are no worse known than many."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lsc_graph.jacobians.probed import probed_gain
from lsc_graph.jacobians.radius import gain

NUM_PROBES = 16


def found_and_pulled(matrices: Tensor) -> tuple[Tensor, int]:
    """The gains by probes, and how many cotangents were pulled back at each point."""
    seen: list[int] = []

    def squares(probes: Tensor) -> Tensor:
        seen.append(probes.shape[1])
        return (probes @ matrices).square().sum(2)

    num_points, *shape = matrices.shape
    generator = torch.Generator().manual_seed(0)
    found = probed_gain(squares, num_points, (shape[0], shape[1]), NUM_PROBES, generator)
    return found, sum(seen)


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


def test_a_large_mean_over_units_at_many_points_gets_more_probes(draw: Callable[..., Tensor]) -> None:
    matrices = draw(60, 600, 1) @ draw(60, 1, 600)
    found, pulled = found_and_pulled(matrices)
    off = (found / gain(matrices)).log()
    assert float(off.std()) < 0.08
    assert float(off.mean().abs()) < 0.02
    assert pulled == 256


def test_the_first_probes_are_enough_for_many_singular_values(draw: Callable[..., Tensor]) -> None:
    matrices = draw(4, 300, 300) / 300**0.5
    matrices[3] = 0
    found, pulled = found_and_pulled(matrices)
    assert torch.allclose(found, gain(matrices), rtol=0.06)
    assert pulled == NUM_PROBES
