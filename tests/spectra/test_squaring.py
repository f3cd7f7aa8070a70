"""Repeated squaring: exact where all powers are known, immune to scale and to transients."""

from __future__ import annotations

import pytest
import torch
from spectra_cases import HARD, SPECTRA, batch

from lsc_graph.spectra.squaring import squaring_radius


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
def test_no_power_leaves_the_floating_point_range(scale: float) -> None:
    matrices = batch("rotations", 40)
    found = squaring_radius(scale * matrices)
    assert bool(found.converged.all())
    expected = scale * torch.tensor([0.5, 0.9, 1.1], dtype=torch.float64)
    torch.testing.assert_close(found.values, expected, rtol=1e-5, atol=0)


def test_a_transient_that_hides_the_radius_for_long_is_cancelled_or_reported() -> None:
    matrix = torch.tensor([[[0.9, 1e3], [0.0, 0.8]]], dtype=torch.float64)
    in_double = squaring_radius(matrix, dtype=torch.float64)
    assert bool(in_double.converged)
    assert float(in_double.values) == pytest.approx(0.9, rel=2e-3)
    hidden = torch.tensor([[[0.9, 1e12], [1e-12, 0.8]]], dtype=torch.float64)
    exact = float(torch.linalg.eigvals(hidden).abs().max())
    in_single = squaring_radius(hidden)
    assert not bool(in_single.converged) or float(in_single.values) == pytest.approx(exact, rel=1e-2)


def test_a_smaller_tolerance_gives_a_smaller_error() -> None:
    matrices = batch("clustered", 60)
    exact = torch.linalg.eigvals(matrices).abs().amax(1)
    errors = []
    for tolerance in (1e-2, 1e-4):
        found = squaring_radius(matrices, tolerance=tolerance, dtype=torch.float64)
        assert bool(found.converged.all())
        errors.append(float(((found.values - exact) / exact).abs().max()))
    assert errors[1] < 1e-4 < 1e-3
    assert errors[0] < 1e-2


@pytest.mark.parametrize("size", [12, 30, 70])
def test_estimates_that_stand_still_before_they_turn_claim_no_more_than_they_know(size: int) -> None:
    build, exact = HARD["legs"]
    found = squaring_radius(build(size)[None])
    assert bool(found.converged)
    assert abs(float(found.values) / exact - 1) <= float(found.errors) + 1e-6


@pytest.mark.parametrize("name", SPECTRA)
def test_no_error_is_larger_than_claimed(name: str) -> None:
    for size in (60, 130):
        matrices = batch(name, size)
        found = squaring_radius(matrices.float())
        off = (found.values / torch.linalg.eigvals(matrices).abs().amax(1) - 1).abs()
        assert bool((off <= found.errors + 1e-6).all())


@pytest.mark.parametrize("gap", [1e-2, 1e-3, 1e-4, 1e-5])
@pytest.mark.parametrize("count", [1, 5, 20])
@pytest.mark.parametrize("scale", [1.0, -3.0])
def test_what_eigenvalues_next_to_the_edge_pull_inwards_is_in_the_error(
    gap: float, count: int, scale: float
) -> None:
    """No power that is taken tells them apart, so that the estimates stand still between them."""
    generator = torch.Generator().manual_seed(0)
    signs = (-1.0) ** torch.arange(count, dtype=torch.float64)
    close = signs * (1 - gap * torch.arange(1, count + 1))
    inner = 0.5 * torch.rand(59 - count, generator=generator, dtype=torch.float64)
    values = torch.cat([torch.ones(1, dtype=torch.float64), close, inner])
    turn = torch.linalg.qr(torch.randn(60, 60, generator=generator, dtype=torch.float64))[0]
    found = squaring_radius((scale * turn @ torch.diag(values) @ turn.T)[None].float())
    assert bool(found.converged.all())
    assert abs(float(found.values) / abs(scale) - 1) <= float(found.errors) + 1e-6


@pytest.mark.parametrize("norm", [3.0, 40.0, 300.0])
@pytest.mark.parametrize("gap", [1e-3, 3e-3, 2e-2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_badly_conditioned_eigenvalues_inside_do_not_hide_the_one_at_the_edge(
    norm: float, gap: float, dtype: torch.dtype
) -> None:
    """Forty blocks whose powers are as large as `norm` times those of the edge."""
    inner = torch.tensor([[1 - gap, (1 - gap) * norm], [0.0, 0.0]], dtype=torch.float64)
    matrix = torch.block_diag(torch.ones(1, 1, dtype=torch.float64), *[inner] * 40)
    turn = torch.linalg.qr(torch.randn(81, 81, generator=torch.Generator().manual_seed(0)).double())[0]
    found = squaring_radius((turn @ matrix @ turn.T)[None], dtype=dtype)
    off = abs(float(found.values) - 1)
    assert off <= float(found.errors) + 1e-6
    assert dtype == torch.float32 or bool(found.converged)


def test_other_matrices_of_a_batch_change_no_estimate() -> None:
    """Those that converge at once must not be squared on with those that take long."""
    matrices = torch.cat([batch(name, 60) for name in ("rotations", "clustered")]).float()
    alone = [squaring_radius(own[None]) for own in matrices]
    together = squaring_radius(matrices)
    torch.testing.assert_close(together.values, torch.cat([own.values for own in alone]), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        together.errors, torch.cat([own.errors for own in alone]), rtol=1e-2, atol=1e-7
    )


def test_a_zero_matrix_in_a_batch_has_a_radius_of_zero() -> None:
    matrices = batch("clustered", 60).float()
    matrices[1] = 0
    found = squaring_radius(matrices)
    assert bool(found.converged.all())
    assert float(found.values[1]) == 0
