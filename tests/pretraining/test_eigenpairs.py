"""Derivatives of radii and gains against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lsc_graph.pretraining.eigenpairs import (
    gain_direction,
    mean_direction,
    probed_gain_direction,
    radius_direction,
)


def matrices(count: int, rows: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, rows, columns, dtype=torch.float64, generator=generator)


def change(left: Tensor, right: Tensor, tangent: Tensor) -> Tensor:
    """sum_r left[r]^T dM right[r]."""
    return torch.einsum("pri,pij,prj->p", left, tangent, right)


@pytest.mark.parametrize("size", [1, 2, 5, 12])
def test_the_derivative_of_the_radius_is_that_of_finite_differences(size: int) -> None:
    point, tangent, step = matrices(6, size, size), matrices(6, size, size, seed=1), 1e-6
    found = radius_direction(point)
    above, below = (torch.linalg.eigvals(point + s * step * tangent).abs().amax(1) for s in (1, -1))
    assert found.is_known.all()
    torch.testing.assert_close(found.value, torch.linalg.eigvals(point).abs().amax(1))
    torch.testing.assert_close(
        change(found.left, found.right, tangent), (above - below) / (2 * step), rtol=1e-4, atol=1e-6
    )


def test_scaling_a_matrix_scales_its_radius() -> None:
    point = matrices(4, 7, 7)
    found = radius_direction(point)
    torch.testing.assert_close(change(found.left, found.right, point), found.value)


def test_a_defective_eigenvalue_has_no_derivative_that_is_used() -> None:
    shift = torch.diag(torch.ones(3, dtype=torch.float64), 1)[None]
    found = radius_direction(torch.cat([shift, torch.eye(4, dtype=torch.float64)[None]]))
    assert found.is_known.tolist()[0] is False
    assert not found.left[0].any()


def test_the_derivative_of_the_gain_is_unbiased() -> None:
    point, tangent = matrices(1, 4, 6), matrices(1, 4, 6, seed=1)
    many = point.expand(20_000, -1, -1)
    found = gain_direction(many, [torch.Generator().manual_seed(2)])
    exact = (point * tangent).sum() / torch.linalg.matrix_norm(point[0]) / 24**0.25
    estimates = change(found.left, found.right, tangent.expand(20_000, -1, -1))
    noise = float(estimates.std()) / len(estimates) ** 0.5
    assert abs(float(estimates.mean() - exact)) < 4 * noise
    torch.testing.assert_close(found.value[0], torch.linalg.matrix_norm(point[0]) / 24**0.25)


def test_probes_see_the_gain_of_a_matrix_that_is_not_written_out() -> None:
    point, tangent = matrices(1, 5, 3), matrices(1, 5, 3, seed=1)
    probes = torch.randn(4000, 16, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = probed_gain_direction(probes, probes @ point[0], 5)
    exact = float(torch.linalg.matrix_norm(point[0])) / 15**0.25
    assert float(found.value.square().mean().sqrt()) == pytest.approx(exact, rel=0.02)
    estimates = change(found.left, found.right, tangent.expand(4000, -1, -1))
    slope = float((point * tangent).sum()) / float(torch.linalg.matrix_norm(point[0])) / 15**0.25
    assert float(estimates.mean()) == pytest.approx(slope, abs=0.05)


def test_the_derivative_of_a_mean_over_entries_is_that_of_finite_differences() -> None:
    """Two points of three entries, whose elements lie in between one another."""
    rows, step = torch.arange(12).reshape(4, 3).T, 1e-6
    point, tangent = matrices(6, 4, 4), matrices(6, 4, 4, seed=1)
    whole = torch.zeros(2, 12, 12, dtype=torch.float64)
    for number in range(6):
        own = rows[number % 3]
        whole[number // 3, own[:, None], own] = tangent[number]
    found = mean_direction(radius_direction(point), rows, rows)
    above, below, exact = (
        torch.linalg.eigvals(point + s * step * tangent).abs().amax(1).reshape(2, 3).mean(1)
        for s in (1, -1, 0)
    )
    torch.testing.assert_close(found.value, exact)
    torch.testing.assert_close(
        change(found.left, found.right, whole), (above - below) / (2 * step), rtol=1e-4, atol=1e-6
    )
