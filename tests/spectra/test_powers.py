"""Radii by Krylov spaces of powers: right within what they claim, also where nothing else is."""

from __future__ import annotations

import pytest
import torch
from spectra_cases import HARD, SPECTRA, batch

from lsc_graph.spectra.estimate import Method
from lsc_graph.spectra.powers import power_radius

SIZES = (30, 70, 230)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SPECTRA)
def test_no_error_is_larger_than_claimed(name: str, size: int) -> None:
    matrices = batch(name, size)
    found = power_radius(matrices.float())
    exact = torch.linalg.eigvals(matrices).abs().amax(1)
    off = (found.values / exact - 1).abs()
    kept = found.converged
    assert bool((off[kept] <= found.errors[kept] + 1e-6).all())
    assert set(found.methods) == {Method.POWERS}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", HARD)
def test_hard_matrices_converge_to_the_radius_or_not_at_all(name: str, size: int) -> None:
    build, exact = HARD[name]
    # What only slow transients hide is told by a check of one point, unless they are waited for.
    for is_long in (False, True) if "leaky" not in name else (True,):
        found = power_radius(build(size)[None], is_long=is_long)
        if bool(found.converged):
            assert abs(float(found.values) - exact) <= (float(found.errors) + 1e-6) * exact


def test_orthogonal_matrices_converge_though_all_their_eigenvalues_are_dominant() -> None:
    basis = torch.linalg.qr(torch.randn(2, 200, 200, generator=torch.Generator().manual_seed(0)))[0]
    found = power_radius(0.9 * basis)
    assert bool(found.converged.all())
    assert found.values.tolist() == pytest.approx([0.9, 0.9], rel=2e-3)


def test_the_last_space_is_as_wide_as_a_small_matrix() -> None:
    matrices = torch.tensor([[[0.5]], [[-2.0]], [[0.0]]])
    found = power_radius(matrices)
    assert found.values.tolist() == pytest.approx([0.5, 2.0, 0.0])
    assert bool(found.converged.all())


def test_a_first_vector_that_is_nearly_orthogonal_to_the_left_eigenvector_does_not_decide() -> None:
    size = 128
    generator = torch.Generator().manual_seed(1)
    first = torch.randn(1, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))[0]
    left, right, rest = (
        torch.randn(*shape, dtype=torch.float64, generator=generator)
        for shape in ((size,), (size,), (size, size))
    )
    left -= (left @ first - 1e-4 * left.norm() * first.norm()) / (first @ first) * first
    one = torch.outer(right, left) / (left @ right)
    others = torch.eye(size, dtype=torch.float64) - one
    matrix = 1.1 * one + 0.3 * others @ rest @ others / size**0.5
    found = power_radius(matrix[None])
    assert bool(found.converged.all())
    assert float(found.values) == pytest.approx(float(torch.linalg.eigvals(matrix).abs().max()), rel=1e-4)
