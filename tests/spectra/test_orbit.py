"""Powers of one matrix, followed beyond its transient, grow by its radius."""

from __future__ import annotations

import math

import pytest
import torch
from spectra_cases import HARD, SPECTRA, batch

from lsc_graph.spectra.orbit import orbit_fall, orbit_growth


@pytest.mark.parametrize("name", SPECTRA)
def test_the_growth_is_the_radius(name: str) -> None:
    for matrix in batch(name, 300).float():
        exact = float(torch.linalg.eigvals(matrix.double()).abs().max())
        assert orbit_growth(matrix).rate == pytest.approx(exact, rel=6e-3)


def test_a_jordan_block_stops_growing_like_a_circulant() -> None:
    size = 300
    shift = torch.eye(size).roll(1, 0)
    jordan = 0.5 * torch.eye(size) + torch.tril(shift)
    circulant = 0.5 * torch.eye(size) + shift
    assert orbit_growth(circulant).rate == pytest.approx(1.5, rel=6e-3)
    assert not orbit_growth(jordan).rate > 1.45


def test_slow_transients_are_waited_for_in_a_long_orbit() -> None:
    build, exact = HARD["slow leaky cascade"]
    assert orbit_growth(build(300).float()).rate > 1.01 * exact
    assert not orbit_growth(build(300).float(), is_long=True).rate > 1.01 * exact
    for name in SPECTRA:
        matrix = batch(name, 300)[0]
        radius = float(torch.linalg.eigvals(matrix).abs().max())
        assert orbit_growth(matrix.float(), is_long=True).rate == pytest.approx(radius, rel=1e-3)


@pytest.mark.parametrize("name", ["nilpotent", "nilpotent, turned", "companion"])
def test_what_rounding_decides_is_not_known(name: str) -> None:
    build, exact = HARD[name]
    growth = orbit_growth(build(300).float()).rate
    assert math.isnan(growth) or growth == pytest.approx(exact, rel=6e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scales_do_not_matter(scale: float) -> None:
    matrix = batch("outlier", 100)[0]
    assert orbit_growth((scale * matrix).float()).rate == pytest.approx(
        scale * orbit_growth(matrix.float()).rate, rel=1e-4
    )


def test_what_is_not_finite_has_no_growth() -> None:
    matrix = batch("outlier", 50)[0].float()
    matrix[0, 0] = torch.nan
    assert math.isnan(orbit_growth(matrix).rate)


def fall(matrix: torch.Tensor, radius: float) -> float:
    return float(orbit_fall(matrix[None].double(), torch.tensor([radius], dtype=torch.float64)))


def test_an_orbit_of_the_radius_alone_does_not_fall() -> None:
    turn = batch("rotations", 40)[1]
    assert fall(turn, 0.9) == pytest.approx(1.0, rel=1e-6)


def test_a_transient_is_how_far_the_orbit_falls() -> None:
    matrix = torch.zeros(30, 30)
    matrix[0, 0] = 0.9
    matrix[2, 1] = 1e4
    matrix[1, 0] = 0.1
    lengths = [1.0]
    vector = torch.eye(30)[0]
    for _ in range(29):
        vector = matrix @ vector / 0.9
        lengths.append(float(vector.norm()))
    assert fall(matrix, 0.9) == pytest.approx(max(lengths) / lengths[-1], rel=1e-4)
    assert fall(torch.eye(30).roll(1, 0).tril(), 1.0) == pytest.approx(1.0)


def test_an_orbit_that_ends_falls_without_bound() -> None:
    assert fall(torch.zeros(5, 5), 1.0) == math.inf
