"""Estimators on CUDA find what eigenvalues on the CPU say, and the host waits for the device once."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from cuda_only import needs_cuda
from spectra_cases import batch

from lsc_graph.spectra.choose import radius_estimate
from lsc_graph.spectra.differentiable import differentiable_radius
from lsc_graph.spectra.estimate import Method

pytestmark = needs_cuda
KINDS = ["gated", "gaussian", "rotations", "clustered", "outlier"]
METHODS = [Method.AUTO, Method.DENSE, Method.SQUARING, Method.POWERS, Method.ARNOLDI]


@contextmanager
def waits() -> Iterator[Counter[str]]:
    """Counts the operators at which the host waits for the device, by torch's own warnings."""
    found: Counter[str] = Counter()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found.update(
        f"{w.filename}:{w.lineno}" for w in caught if "synchronizing CUDA operation" in str(w.message)
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", [12, 96, 300])
def test_every_method_agrees_with_eigenvalues_of_the_cpu(name: str, size: int, method: Method) -> None:
    matrices = batch(name, size)
    exact = torch.linalg.eigvals(matrices).abs().amax(1)
    found = radius_estimate(matrices.float().cuda(), method)
    where = found.converged.cpu()
    assert where.all() or method not in (Method.AUTO, Method.DENSE)
    values = found.values.cpu().double()
    torch.testing.assert_close(values[where], exact[where], rtol=5e-3, atol=0)


def test_waits_are_counted() -> None:
    value = torch.ones(3, device="cuda")
    with waits() as found:
        value.sum().item()
        value.cpu()
    assert found.total() == 2


@pytest.mark.parametrize("size", [40, 150, 300])
@pytest.mark.parametrize("name", ["gated", "gaussian", "outlier"])
@pytest.mark.parametrize("method", METHODS)
def test_the_host_waits_once_for_a_batch(name: str, size: int, method: Method) -> None:
    matrices = batch(name, size).float().cuda()
    radius_estimate(matrices, method)
    with waits() as found:
        assert bool(radius_estimate(matrices, method).converged.all())
    assert found.total() == 1, found


@pytest.mark.parametrize("size", [20, 130])
def test_the_derivative_of_the_radius_is_that_of_the_cpu(size: int) -> None:
    found = []
    for device in ("cpu", "cuda"):
        matrices = batch("gated", size).to(device).requires_grad_()
        values, derivative = differentiable_radius(matrices)
        assert bool(derivative.is_known.all())
        values.sum().backward()
        assert matrices.grad is not None
        found.append((values.detach().cpu(), matrices.grad.cpu()))
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-9)
