"""An eigenvalue is one by vectors on both sides: approximate ones of no eigenvalue do not pass for it."""

from __future__ import annotations

import math

import pytest
import torch
from spectra_cases import HARD, SPECTRA, batch

from lsc_graph.spectra.krylov_powers import krylov_power_radius
from lsc_graph.spectra.operator import dense_operator
from lsc_graph.spectra.witness import condition_at

_ALLOWED = 4e-3


def has_eigenvalue(matrix: torch.Tensor, radius: float, allowed: float, *, seed: int = 1) -> bool:
    return condition_at(matrix, radius, allowed, seed=seed) is not None


def radius_of(matrix: torch.Tensor) -> float:
    return float(torch.linalg.eigvals(matrix.double()).abs().max())


# Those of which single precision of the elements leaves the radius known.
ORDINARY = [name for name in SPECTRA if name != "transient"]


@pytest.mark.parametrize("name", ORDINARY)
def test_the_radius_of_ordinary_matrices_is_that_of_an_eigenvalue(name: str) -> None:
    for matrix in batch(name, 300):
        assert has_eigenvalue(matrix.float(), radius_of(matrix), _ALLOWED)


@pytest.mark.parametrize(
    "name", [name for name in HARD if any(kind in name for kind in ("jordan", "leaky", "legs", "nilpotent"))]
)
@pytest.mark.parametrize("size", [300, 900])
def test_what_krylov_spaces_take_for_an_eigenvalue_is_not_taken_for_one(name: str, size: int) -> None:
    build, exact = HARD[name]
    matrix = build(size).float()
    radius = float(krylov_power_radius(dense_operator(matrix[None])).values)
    is_right = abs(radius - exact) <= 2 * _ALLOWED * exact
    assert is_right or not has_eigenvalue(matrix, radius, _ALLOWED)


@pytest.mark.parametrize("size", [1000, 1600])
def test_waves_along_a_chain_are_not_taken_for_eigenvectors(size: int) -> None:
    """Those that vanish at both ends are nearly eigenvectors, on both sides."""
    leak = 0.01
    chain = (1 - leak) * torch.eye(size) + leak * torch.diag(torch.ones(size - 1), -1)
    wave = torch.sin(math.pi * torch.arange(1, size + 1, dtype=torch.float64) / (size + 1))
    assert float((chain.double() @ wave - wave).norm() / wave.norm()) < 5e-5
    assert not has_eigenvalue(chain, 0.9995, _ALLOWED)


@pytest.mark.parametrize("leak", [0.5, 0.1, 0.01])
def test_units_in_unlike_scales_do_not_make_a_transient_an_eigenvalue(leak: float) -> None:
    scales = torch.pow(10.0, 3 * torch.rand(400, generator=torch.Generator().manual_seed(0)))
    chain = (1 - leak) * torch.eye(400) + leak * torch.diag(torch.ones(399), -1)
    assert not has_eigenvalue(scales[:, None] * chain / scales, 1.0, _ALLOWED)


def test_an_eigenvalue_within_the_radius_is_none_of_that_modulus() -> None:
    for matrix in batch("gated", 300):
        radius = radius_of(matrix)
        assert not has_eigenvalue(matrix.float(), 1.02 * radius, _ALLOWED)
        assert not has_eigenvalue(matrix.float(), 0.98 * radius, _ALLOWED)


def test_a_larger_eigenvalue_is_seen_though_the_modulus_is_that_of_one() -> None:
    matrix = batch("gated", 200)[0].float()
    both = torch.block_diag(matrix, 0.9 * matrix)
    assert not has_eigenvalue(both, 0.9 * radius_of(matrix), _ALLOWED)


def test_one_larger_eigenvalue_beside_many_that_crowd_is_seen_whatever_the_vectors() -> None:
    circle = torch.linalg.qr(torch.randn(299, 299, generator=torch.Generator().manual_seed(0)))[0]
    matrix = torch.block_diag(torch.ones(1, 1), 0.98 * circle)
    turn = torch.linalg.qr(torch.randn(300, 300, generator=torch.Generator().manual_seed(1)))[0]
    turned = turn @ matrix @ turn.T
    assert not any(has_eigenvalue(turned, 0.98, _ALLOWED, seed=seed) for seed in range(10))
    assert has_eigenvalue(turned, 1.0, _ALLOWED)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scales_do_not_matter(scale: float) -> None:
    matrix = batch("rotations", 200)[1]
    assert has_eigenvalue((scale * matrix).float(), scale * 0.9, _ALLOWED)


@pytest.mark.parametrize("radius", [0.0, math.nan, math.inf])
def test_no_radius_is_that_of_an_eigenvalue(radius: float) -> None:
    assert not has_eigenvalue(batch("gated", 100)[0].float(), radius, _ALLOWED)


def test_what_is_not_finite_has_no_eigenvalue() -> None:
    matrix = batch("gated", 100)[0].float()
    matrix[3, 4] = torch.nan
    assert not has_eigenvalue(matrix, 0.9, _ALLOWED)
    assert not has_eigenvalue(torch.zeros(100, 100), 0.9, _ALLOWED)
