"""Radii by a power that is known by products: right within the tolerance, or given as not converged."""

from __future__ import annotations

import pytest
import torch
from spectra_cases import HARD, SPECTRA, batch

from lsc_graph.spectra.estimate import TOLERANCE, Method
from lsc_graph.spectra.krylov_powers import krylov_power_radius
from lsc_graph.spectra.operator import dense_operator


@pytest.mark.parametrize("size", [20, 260, 400])
@pytest.mark.parametrize("name", SPECTRA)
def test_points_that_converge_are_right(name: str, size: int) -> None:
    matrices = batch(name, size).float()
    found = krylov_power_radius(dense_operator(matrices))
    exact = torch.linalg.eigvals(matrices.double()).abs().amax(1)
    off = (found.values / exact - 1).abs()
    assert bool(found.values.isfinite().all())
    assert bool((off[found.converged] <= 1.5 * TOLERANCE).all()), (off, found.errors)
    assert set(found.methods) == {Method.ARNOLDI}


def test_hardly_any_error_is_larger_than_claimed() -> None:
    off, claimed = [], []
    for name in ("gaussian", "rotations", "gated", "clustered", "transient"):
        for seed in range(6):
            matrices = batch(name, 250, seed).float()
            found = krylov_power_radius(dense_operator(matrices), seed=seed)
            exact = torch.linalg.eigvals(matrices.double()).abs().amax(1)
            off.append((found.values / exact - 1).abs()[found.converged])
            claimed.append(found.errors[found.converged])
    is_under = torch.cat(off) > torch.cat(claimed) + 1e-6
    assert is_under.numel() >= 70
    assert float(is_under.double().mean()) <= 0.05
    assert float(torch.cat(off).max()) <= 1.5 * TOLERANCE


def test_a_crowded_edge_takes_fewer_vectors_than_the_matrix_itself_would_need() -> None:
    matrices = batch("rotations", 600).float()
    found = krylov_power_radius(dense_operator(matrices))
    assert bool(found.converged.all())
    assert found.values.tolist() == pytest.approx([0.5, 0.9, 1.1], rel=5e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_tiny_and_huge_matrices_stay_in_the_range_of_floats(scale: float) -> None:
    matrices = batch("outlier", 150)
    found = krylov_power_radius(dense_operator((scale * matrices).float()))
    exact = scale * torch.linalg.eigvals(matrices).abs().amax(1)
    assert bool(found.converged.all())
    torch.testing.assert_close(found.values, exact, rtol=5e-3, atol=0)


def test_most_kinds_converge_at_every_point() -> None:
    for name in ("gaussian", "rotations", "gated", "clustered", "outlier"):
        found = krylov_power_radius(dense_operator(batch(name, 400).float()))
        assert bool(found.converged.all()), name


def test_what_is_not_finite_is_not_converged_and_spoils_no_other_point() -> None:
    matrices = batch("outlier", 150).float()
    matrices[1, 0, 0] = torch.nan
    assert krylov_power_radius(dense_operator(matrices)).converged.tolist() == [True, False, True]


def test_what_few_products_take_to_nothing_has_radius_zero_beside_what_has_another() -> None:
    """Zeros, and blocks that shift by 30 of 150: such are the depth edges of caches."""
    matrices = batch("outlier", 150).float()
    exact = torch.linalg.eigvals(matrices[1].double()).abs().max()
    matrices[0] = 0
    matrices[2] = torch.diag(torch.rand(120) + 0.5, 30)
    found = krylov_power_radius(dense_operator(matrices))
    assert found.converged.tolist() == [True, True, True]
    assert found.values[[0, 2]].tolist() == [0, 0]
    torch.testing.assert_close(found.values[1], exact, rtol=5e-3, atol=0)


@pytest.mark.parametrize(("gain", "length", "loop"), [(1e8, 7, 0.9), (1e5, 8, 0.01), (1e16, 4, 0.9)])
def test_what_is_too_small_to_be_held_beside_large_elements_is_not_nothing(
    gain: float, length: int, loop: float
) -> None:
    """A chain of shifts that few products take to nothing, and a loop that goes on."""
    matrix = torch.diag(torch.cat([torch.full((length - 1,), gain), torch.zeros(150 - length)]), -1)
    matrix[-1, -1] = loop
    found = krylov_power_radius(dense_operator(matrix[None]))
    assert not bool(found.converged) or float(found.values) == pytest.approx(loop, rel=TOLERANCE)


@pytest.mark.parametrize("name", ["nilpotent", "nilpotent, turned", "defective edge", "triangular, strong"])
def test_powers_that_vanish_or_are_badly_conditioned_do_not_converge(name: str) -> None:
    build, exact = HARD[name]
    found = krylov_power_radius(dense_operator(build(60).float()[None]))
    assert not bool(found.converged) or abs(float(found.values) - exact) <= TOLERANCE * exact


def test_a_higher_power_resolves_what_the_first_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = dense_operator(batch("rotations", 400).float())
    first = krylov_power_radius(operator, tolerance=2e-3)
    assert not bool(first.converged.any())
    monkeypatch.setattr("lsc_graph.spectra.krylov_powers._SECOND_FROM", 400)
    second = krylov_power_radius(operator, tolerance=2e-3)
    assert bool(second.converged.all())
    assert second.values.tolist() == pytest.approx([0.5, 0.9, 1.1], rel=2e-3)
