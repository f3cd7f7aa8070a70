"""Arnoldi's method without restarts: converged only where the point's own powers bear it out."""

from __future__ import annotations

import pytest
import torch
from spectra_cases import HARD, SPECTRA, batch

from lsc_graph.spectra.arnoldi_once import arnoldi_once
from lsc_graph.spectra.estimate import TOLERANCE, Method


@pytest.mark.parametrize("size", [3, 40, 100, 300])
@pytest.mark.parametrize("name", ["gated", "gaussian", "rotations", "clustered", "outlier"])
def test_ordinary_points_converge_to_their_radius(name: str, size: int) -> None:
    matrices = batch(name, size)
    found = arnoldi_once(matrices)
    exact = torch.linalg.eigvals(matrices).abs().amax(1)
    assert bool(found.converged.all())
    assert set(found.methods) == {Method.ARNOLDI}
    torch.testing.assert_close(found.values, exact, rtol=TOLERANCE, atol=0)


@pytest.mark.parametrize("name", SPECTRA)
def test_hardly_any_error_is_larger_than_claimed(name: str) -> None:
    for seed in range(3):
        matrices = batch(name, 160, seed).float()
        found = arnoldi_once(matrices)
        exact = torch.linalg.eigvals(matrices.double()).abs().amax(1)
        off = (found.values / exact - 1).abs()
        assert bool((off[found.converged] <= TOLERANCE).all())


def test_a_transient_that_the_bases_take_for_a_radius_is_refuted_and_spoils_no_other_point() -> None:
    build, exact = HARD["leaky cascade"]
    matrices = torch.cat([batch("gaussian", 150), build(150)[None]]).float()
    found = arnoldi_once(matrices)
    assert float(found.values[3]) > 1.01 * exact
    assert found.converged.tolist() == [True, True, True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_has_radius_zero_and_what_is_not_finite_none(dtype: torch.dtype) -> None:
    matrices = batch("outlier", 80).to(dtype)
    matrices[1] = 0
    matrices[2, 0, 0] = torch.nan
    found = arnoldi_once(matrices)
    assert found.converged.tolist() == [True, True, False]
    assert float(found.values[1]) == 0.0


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scales_do_not_matter(scale: float) -> None:
    matrices = scale * batch("outlier", 100)
    found = arnoldi_once(matrices)
    exact = torch.linalg.eigvals(matrices).abs().amax(1)
    assert bool(found.converged.all())
    torch.testing.assert_close(found.values, exact, rtol=5e-3, atol=0)
