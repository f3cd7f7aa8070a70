"""Off the CPU the host waits for the device at most once for a batch whose radii converge."""

from __future__ import annotations

import pytest
import torch
from fake_device import NAME, FakeDevice, Held
from spectra_cases import batch

from lsc_graph.spectra import arnoldi, choose
from lsc_graph.spectra.choose import radius_estimate
from lsc_graph.spectra.estimate import Method


@pytest.fixture(autouse=True)
def like_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake device has the sizes that CUDA has."""
    for sizes in (choose.SQUARING_FROM, choose.POWERS_FROM, choose.ARNOLDI_FROM, arnoldi._MAX_BASIS_BYTES):
        monkeypatch.setitem(sizes, NAME, sizes["cuda"])


def on_device(matrices: torch.Tensor, method: Method) -> tuple[torch.Tensor, FakeDevice]:
    with FakeDevice() as device:
        found = radius_estimate(Held(matrices), method)
        assert bool(found.converged.all())
    return found.values, device


@pytest.mark.parametrize("size", [40, 150, 300])
@pytest.mark.parametrize("name", ["gated", "gaussian", "outlier"])
def test_the_default_choice_waits_once(name: str, size: int) -> None:
    matrices = batch(name, size).float()
    values, device = on_device(matrices, Method.AUTO)
    exact = torch.linalg.eigvals(matrices.double()).abs().amax(1)
    torch.testing.assert_close(values, exact, rtol=5e-3, atol=0)
    assert device.waits.total() == 1, device.waits


@pytest.mark.parametrize("method", [Method.SQUARING, Method.POWERS])
def test_methods_by_name_wait_once(method: Method) -> None:
    _, device = on_device(batch("outlier", 200).float(), method)
    assert device.waits.total() == 1, device.waits


def test_arnoldi_waits_once_more_for_the_powers_of_the_point_that_it_is_confirmed_at() -> None:
    _, device = on_device(batch("outlier", 200).float(), Method.ARNOLDI)
    assert device.waits.total() == 2, device.waits


def test_waits_are_counted() -> None:
    with FakeDevice() as device:
        value = Held(torch.tensor([1.0, -2.0]))
        assert float(value[1]) == -2.0
        assert value.cpu().tolist() == [1.0, -2.0]
        assert value[value > 0].shape == (1,)
        made = torch.zeros(2, device=NAME) + value
        assert isinstance(made, Held)
    assert device.waits == {"_local_scalar_dense": 1, "_to_copy": 1, "index": 1}
