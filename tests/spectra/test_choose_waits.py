"""Off the CPU the host waits for the device at most once for a batch, by every estimator."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fake_device import NAME, FakeDevice, Held
from spectra_cases import HARD, SPECTRA, batch

from lsc_graph.spectra import choose, confirming
from lsc_graph.spectra.choose import cascade, radius_estimate
from lsc_graph.spectra.estimate import TOLERANCE, Estimate, Method

BY_NAME = [Method.DENSE, Method.SQUARING, Method.POWERS, Method.ARNOLDI]


def on_device(matrices: torch.Tensor, method: Method) -> tuple[Estimate, FakeDevice]:
    with FakeDevice() as device:
        found = radius_estimate(Held(matrices), method)
    return found, device


@pytest.mark.parametrize(
    ("size", "first"),
    [(12, Method.DENSE), (40, Method.SQUARING), (300, Method.SQUARING), (420, Method.POWERS)],
)
@pytest.mark.parametrize("name", ["gated", "gaussian", "outlier"])
def test_the_default_choice_waits_once_where_all_points_converge(
    name: str, size: int, first: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(choose.POWERS_FROM, "cuda", 400)
    assert cascade(size, NAME)[0] is first
    matrices = batch(name, size).float()
    found, device = on_device(matrices, Method.AUTO)
    exact = torch.linalg.eigvals(matrices.double()).abs().amax(1)
    assert set(found.methods) == {first}
    assert bool(found.converged.all())
    torch.testing.assert_close(found.values, exact, rtol=5e-3, atol=0)
    assert device.waits.total() == 1, device.waits


def test_the_default_choice_goes_on_with_a_further_batch_at_points_that_have_not_converged() -> None:
    matrices = batch("outlier", 40).float()
    matrices[1] = HARD["nilpotent"][0](40)
    found, device = on_device(matrices, Method.AUTO)
    assert found.methods == (Method.SQUARING, Method.DENSE, Method.SQUARING)
    assert device.waits.total() == 2, device.waits


def test_no_size_has_arnoldi_as_its_default_off_the_cpu() -> None:
    assert cascade(4096, "cuda") == cascade(100_000, "cuda") == (Method.POWERS, Method.DENSE)
    assert cascade(4096, "cpu")[0] is Method.ARNOLDI


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [12, 150, 230])
@pytest.mark.parametrize("method", BY_NAME)
def test_every_method_by_name_waits_once(method: Method, size: int, dtype: torch.dtype) -> None:
    for name in ("gated", "rotations"):
        matrices = batch(name, size).to(dtype)
        found, device = on_device(matrices, method)
        exact = torch.linalg.eigvals(matrices.double()).abs().amax(1)
        assert set(found.methods) == {method}
        assert bool(found.converged.all())
        torch.testing.assert_close(found.values, exact, rtol=5e-3, atol=0)
        assert device.waits.total() == 1, device.waits


@pytest.mark.parametrize("method", [*BY_NAME, Method.AUTO])
@pytest.mark.parametrize("size", [70, 300, 800])
def test_nothing_off_the_cpu_is_confirmed_point_by_point(
    size: int, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eigenvectors and orbits are looked at on the host, which would wait for every point."""
    asked: list[object] = []
    for name in ("condition_at", "orbit_growth", "power_radius"):
        monkeypatch.setattr(confirming, name, lambda *given, **_: asked.append(given))
    matrices = torch.cat([batch("gaussian", size)[:2], HARD["nilpotent"][0](size)[None]]).float()
    found, device = on_device(matrices, method)
    assert bool(found.converged[:2].all())
    assert not asked
    assert device.waits.total() <= 2, device.waits


@pytest.mark.parametrize("method", BY_NAME)
@pytest.mark.parametrize("name", ["nilpotent, turned", "jordan, turned", "triangular, strong"])
def test_methods_by_name_wait_once_also_where_they_do_not_converge(name: str, method: Method) -> None:
    matrices = torch.cat([batch("outlier", 70), HARD[name][0](70)[None]]).float()
    found, device = on_device(matrices, method)
    assert not bool(found.converged[3])
    assert bool(found.converged[:3].all())
    assert device.waits.total() == 1, device.waits


@pytest.mark.parametrize("size", [12, 70, 240])
@pytest.mark.parametrize("name", HARD)
def test_what_is_given_as_converged_off_the_cpu_is_right(name: str, size: int) -> None:
    build, exact = HARD[name]
    for method in (Method.POWERS, Method.ARNOLDI):
        found, _ = on_device(build(size).float()[None], method)
        if bool(found.converged):
            assert abs(float(found.values) - exact) <= TOLERANCE * exact, (method, found)


def test_arnoldi_off_the_cpu_converges_at_as_many_points_as_with_restarts() -> None:
    counts = {"restarts": 0, "once": 0}
    for name in SPECTRA:
        for size in (96, 300):
            matrices = batch(name, size).float()
            counts["restarts"] += int(radius_estimate(matrices, Method.ARNOLDI).converged.sum())
            counts["once"] += int(on_device(matrices, Method.ARNOLDI)[0].converged.sum())
    assert counts["once"] >= counts["restarts"]


def test_waits_are_counted() -> None:
    with FakeDevice() as device:
        value = Held(torch.tensor([1.0, -2.0]))
        assert float(value[1]) == -2.0
        assert value.cpu().tolist() == [1.0, -2.0]
        assert value[value > 0].shape == (1,)
        made = torch.zeros(2, device=NAME) + value
        assert isinstance(made, Held)
    assert device.waits == {"_local_scalar_dense": 1, "_to_copy": 1, "index": 1}


@pytest.mark.parametrize(
    ("waits", "act"),
    [
        (1, lambda value: value.tolist()),
        (1, lambda value: bool((value > 0).any())),
        (1, lambda value: value.nonzero()),
        (1, lambda value: torch.empty(3).copy_(value)),
        (1, lambda value: value.copy_(torch.empty(3))),
        (1, lambda value: torch.empty(3).to(value)),
        (1, lambda value: value[[0, 2]]),
        (1, lambda value: value.__setitem__(value > 0, 0.0)),
        (1, lambda value: torch.linalg.inv(value.diag_embed())),
        (0, lambda value: torch.linalg.inv_ex(value.diag_embed())),
        (0, lambda value: torch.empty(3).to(NAME, non_blocking=True)),
        (0, lambda value: value.copy_(torch.empty(3), non_blocking=True)),
        (0, lambda value: torch.where(value > 0, 0.0, value).sum()),
        (0, lambda value: value[torch.arange(2, device=NAME)]),
    ],
)
def test_only_what_makes_the_host_wait_is_counted(waits: int, act: Callable[[torch.Tensor], object]) -> None:
    with FakeDevice() as device:
        act(Held(torch.tensor([1.0, -2.0, 3.0])))
    assert device.waits.total() == waits, device.waits


def test_conjugates_are_read_as_such() -> None:
    values = torch.tensor([1.0 + 2.0j, 3.0 - 1.0j])
    with FakeDevice():
        found = (Held(values).conj() * Held(values)).imag.cpu()
    assert found.tolist() == [0.0, 0.0]
