"""Spectral radius, gain and norm obey the identities that define them."""

from __future__ import annotations

import pytest
import torch

from lsc_graph.jacobians.radius import gain, spectral_norm, spectral_radius


def matrices(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_scaled_orthogonal_matrix_has_one_number_for_all_three() -> None:
    rotation = 0.7 * torch.linalg.qr(matrices(20, 20))[0]
    for measure in (spectral_radius, gain, spectral_norm):
        assert float(measure(rotation)) == pytest.approx(0.7, rel=1e-9)


def test_radius_and_gain_never_exceed_the_norm() -> None:
    batch = matrices(50, 8, 8)
    norms = spectral_norm(batch)
    assert bool((spectral_radius(batch) <= norms + 1e-12).all())
    assert bool((gain(batch) <= norms + 1e-12).all())


def test_one_matrix_that_is_not_finite_leaves_the_norms_of_others_as_they_are() -> None:
    batch = matrices(3, 8, 8)
    norms = spectral_norm(batch)
    batch[1, 2, 3] = torch.nan
    found = spectral_norm(batch)
    assert found[[0, 2]].tolist() == norms[[0, 2]].tolist()
    assert bool(found[1].isnan())


def test_a_nilpotent_matrix_has_radius_zero_and_a_gain() -> None:
    shift = torch.diag(torch.ones(4, dtype=torch.float64), 1)
    assert float(spectral_radius(shift)) == 0.0
    assert float(gain(shift)) == pytest.approx((4 / 5) ** 0.5)


def test_the_radius_is_invariant_under_a_change_of_basis_and_the_gain_is_not() -> None:
    matrix, basis = matrices(6, 6), matrices(6, 6, seed=1)
    turned = basis @ matrix @ torch.linalg.inv(basis)
    assert float(spectral_radius(turned)) == pytest.approx(float(spectral_radius(matrix)), rel=1e-8)
    assert float(gain(turned)) != pytest.approx(float(gain(matrix)), rel=1e-2)


def test_the_gain_is_the_rms_factor_on_isotropic_gradients() -> None:
    matrix = matrices(30, 30)
    vectors = matrices(20_000, 30, seed=2)
    factor = ((vectors @ matrix).square().sum() / vectors.square().sum()).sqrt()
    assert float(gain(matrix)) == pytest.approx(float(factor), rel=0.02)


def test_gaussian_weights_of_standard_deviation_s_over_root_n_have_gain_and_radius_s() -> None:
    matrix = 0.8 * matrices(600, 600) / 600**0.5
    assert float(gain(matrix)) == pytest.approx(0.8, rel=0.01)
    assert float(spectral_radius(matrix)) == pytest.approx(0.8, rel=0.08)


def test_the_gain_of_a_rectangular_block_is_that_of_its_transpose() -> None:
    block = matrices(5, 12)
    assert float(gain(block)) == pytest.approx(float(gain(block.T)))
