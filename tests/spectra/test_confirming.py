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

    def lookup(matrix: torch.Tensor, *_: object) -> bool:
        looked.append(len(matrix))
        return False

    monkeypatch.setattr(confirming, "has_eigenvalue", lookup)
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
