"""Points whose powers are looked at vouch for those alike: no slow transient hides among others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from spectra_cases import HARD, SPECTRA, batch

from lsc_graph.spectra import confirming
from lsc_graph.spectra.arnoldi import arnoldi_radius
from lsc_graph.spectra.choose import radius_estimate
from lsc_graph.spectra.confirming import confirmed
from lsc_graph.spectra.estimate import Method
from lsc_graph.spectra.krylov_powers import krylov_power_radius
from lsc_graph.spectra.operator import dense_operator
from lsc_graph.spectra.orbit import Growth


def cascades(size: int, leaks: list[float]) -> torch.Tensor:
    """Chains of leaky units, h[i] = (1 - d) h[i] + d h[i-1], whose only eigenvalue is 1 - d."""
    chain = torch.diag(torch.ones(size - 1), -1)
    return torch.stack([(1 - leak) * torch.eye(size) + leak * chain for leak in leaks])


def test_a_jordan_block_that_krylov_spaces_take_for_a_circulant_is_refuted() -> None:
    build, exact = HARD["jordan, turned"]
    matrix = build(300).float()
    alone = arnoldi_radius(dense_operator(matrix[None]), max_restarts=8)
    assert float(alone.values) > 1.5 > exact
    assert not bool(confirmed(alone, dense_operator(matrix[None]), lambda point: matrix).converged)
    ordinary = batch("gated", 300).float()
    found = arnoldi_radius(dense_operator(ordinary), max_restarts=8)
    assert bool(confirmed(found, dense_operator(ordinary), lambda point: ordinary[point]).converged.all())


@pytest.mark.parametrize("size", [300, 1000])
def test_eigenvectors_are_looked_up_where_that_takes_less_time(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []

    def lookup(matrix: torch.Tensor, *_: object) -> None:
        looked.append(len(matrix))

    monkeypatch.setattr(confirming, "condition_at", lookup)
    matrix = batch("gated", size).float()[:1]
    operator = dense_operator(matrix)
    assert bool(confirmed(krylov_power_radius(operator), operator, lambda point: matrix[point]).converged)
    assert bool(looked) == (size >= 768)


@pytest.mark.parametrize("name", [name for name in SPECTRA if name != "transient"])
def test_powers_are_not_waited_for_where_an_eigenvalue_is_found(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrices = batch(name, 300).float()
    operator = dense_operator(matrices)
    found = krylov_power_radius(operator)
    assert bool(found.converged.any())

    def unexpected(*_: object, **__: object) -> float:
        raise AssertionError("powers were computed")

    monkeypatch.setattr(confirming, "_LARGE", 0)
    monkeypatch.setattr(confirming, "orbit_growth", unexpected)
    monkeypatch.setattr(confirming, "power_radius", unexpected)
    assert bool(
        (confirmed(found, operator, lambda point: matrices[point]).converged == found.converged).all()
    )


def test_a_slow_transient_among_ordinary_points_is_not_given_as_converged() -> None:
    build, exact = HARD["leaky cascade"]
    matrices = torch.cat([batch("gaussian", 260), build(260)[None], batch("rotations", 260)]).float()
    found = radius_estimate(matrices)
    assert not bool(found.converged[3]) or float(found.values[3]) == pytest.approx(exact, rel=5e-3)
    others = torch.arange(7) != 3
    assert bool(found.converged[others].all())
    exact_of_all = np.abs(np.linalg.eigvals(matrices.double().numpy())).max(axis=1)
    assert found.values[others].numpy() == pytest.approx(exact_of_all[others.numpy()], rel=5e-3)


@pytest.mark.parametrize("method", [Method.AUTO, Method.POWERS, Method.ARNOLDI])
def test_leaks_that_differ_from_point_to_point_are_right_or_not_converged(method: Method) -> None:
    """The slowest ones are nearly what Krylov spaces take all for, and vouch for no other."""
    leaks = [0.0003, 0.2, 0.1, 0.02, 0.3]
    found = radius_estimate(cascades(300, leaks), method)
    off = (found.values / (1 - torch.tensor(leaks, dtype=torch.float64)) - 1).abs()
    assert bool((off[found.converged] < 6e-3).all()), (off, found.errors)


@pytest.mark.parametrize("method", [Method.AUTO, Method.POWERS, Method.ARNOLDI])
def test_ordinary_points_vouch_for_no_slow_transient(method: Method) -> None:
    generator = torch.Generator().manual_seed(0)
    units = torch.diag_embed(torch.rand(2, 200, generator=generator))
    units += torch.randn(2, 200, 200, generator=generator) * 1e-4
    matrices = torch.cat([batch("gaussian", 200).float(), cascades(200, [0.1]), units])
    found = radius_estimate(matrices, method)
    assert not bool(found.converged[3]) or float(found.values[3]) == pytest.approx(0.9, rel=5e-3)


def noisy_cascades(size: int, leak: float, noise: list[float]) -> torch.Tensor:
    """The same chain at every point, in which single precision holds noise of any size."""
    generator = torch.Generator().manual_seed(0)
    parts = [part * torch.randn(size, size, generator=generator) / size**0.5 for part in noise]
    return cascades(size, [leak]).float() + torch.stack(parts)


@pytest.mark.parametrize(
    ("size", "leak", "noise"),
    [
        (300, 0.01, [1e-6, 0.0, 1e-3, 0.0]),
        (300, 0.05, [1e-3, 0.0, 0.0]),
        (400, 0.2, [1e-6, 1e-6, 1e-9]),
        (224, 0.01, [0.0, 1e-6, 0.0]),
        (400, 0.01, [0.0]),
    ],
)
def test_chains_that_noise_closes_vouch_for_none_that_it_does_not(
    size: int, leak: float, noise: list[float]
) -> None:
    matrices = noisy_cascades(size, leak, noise)
    found = radius_estimate(matrices)
    exact = np.abs(np.linalg.eigvals(matrices.double().numpy())).max(axis=1)
    exact = np.where(np.array(noise) == 0, 1 - leak, exact)
    off = np.abs(found.values.numpy() / exact - 1)
    assert (off <= np.maximum(5e-3, found.errors.numpy()))[found.converged.numpy()].all(), (off, found.errors)


def test_points_alike_are_vouched_for_by_one_though_other_units_are_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As those of ReLU are, at every point others."""
    looked = []
    own = confirming.orbit_growth

    def counted(matrix: torch.Tensor, *, is_long: bool) -> Growth:
        looked.append(is_long)
        return own(matrix, is_long=is_long)

    monkeypatch.setattr(confirming, "orbit_growth", counted)
    weight = batch("gaussian", 300).float()[0]
    on = torch.rand(8, 300, generator=torch.Generator().manual_seed(0)) < 0.7
    matrices = on[:, :, None] * weight
    operator = dense_operator(matrices)
    found = krylov_power_radius(operator)
    assert bool(confirmed(found, operator, lambda point: matrices[point]).converged.any())
    assert len(looked) <= 2
