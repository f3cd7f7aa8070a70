"""All eigenvalues, by threads of the host, whatever device matrices are on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cuda_only import needs_cuda
from fake_device import FakeDevice, Held
from spectra_cases import batch

from lsc_graph.spectra.dense import dense_radius
from lsc_graph.spectra.eigenvalues import eigenvalues


def test_they_are_those_of_numpy_for_any_number_of_axes_before() -> None:
    matrices = batch("gated", 6).reshape(1, -1, 6, 6)
    found = eigenvalues(matrices.float())
    assert found.shape == matrices.shape[:-1]
    assert eigenvalues(matrices[0, 0]).shape == (6,)
    assert eigenvalues(torch.zeros(3, 0, 0)).shape == (3, 0)
    expected = np.linalg.eigvals(matrices.float().double().numpy())
    for own, other in zip(found.reshape(-1, 6), expected.reshape(-1, 6), strict=True):
        np.testing.assert_allclose(np.sort_complex(own.numpy()), np.sort_complex(other), atol=1e-12)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("size", [95, 96, 100])
@pytest.mark.parametrize("num_points", [0, 1, 2, 13])
def test_they_do_not_depend_on_how_many_threads_take_them(
    num_points: int, size: int, num_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    by_torch = torch.linalg.eigvals

    def counted(matrices: torch.Tensor) -> torch.Tensor:
        asked.append(len(matrices))
        found: torch.Tensor = by_torch(matrices)
        return found

    matrices = batch("rotations", size).repeat(5, 1, 1)[:num_points]
    matrices = matrices * torch.linspace(1, 2, num_points, dtype=torch.float64)[:, None, None]
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    monkeypatch.setattr(torch.linalg, "eigvals", counted)
    found = eigenvalues(matrices)
    assert found.shape == (num_points, size)
    assert sum(asked) == num_points
    assert (len(asked) > 1) == (num_threads > 1 and size >= 96 and num_points > 1)
    torch.testing.assert_close(found.abs().sort(1).values, by_torch(matrices).abs().sort(1).values)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("size", [8, 100, 200])
def test_those_of_a_matrix_that_is_not_finite_are_nan_and_the_others_as_ever(size: int, value: float) -> None:
    matrices = batch("gaussian", size)
    expected = torch.linalg.eigvals(matrices)
    matrices[1, 0, 0] = value
    found = eigenvalues(matrices)
    assert bool(found[1].isnan().all())
    kept = torch.tensor([0, 2])
    torch.testing.assert_close(found[kept].abs().amax(1), expected[kept].abs().amax(1))


def test_threads_of_the_host_have_as_many_threads_afterwards_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = torch.get_num_threads()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 2)
        eigenvalues(batch("gated", 100).repeat(3, 1, 1))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("is_recorded", [True, False])
@pytest.mark.parametrize("size", [8, 100])
def test_autograd_goes_through_them_where_it_records(
    size: int, is_recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    matrices = batch("gaussian", size).requires_grad_()
    with torch.set_grad_enabled(is_recorded):
        found = eigenvalues(matrices)
    assert found.requires_grad is is_recorded
    if is_recorded:
        # The eigenvalues' sum is the trace.
        found.real.sum().backward()
        assert matrices.grad is not None
        torch.testing.assert_close(matrices.grad, torch.eye(size).double().expand_as(matrices))


@pytest.mark.parametrize("size", [20, 100, 230])
def test_dense_radii_wait_once(size: int) -> None:
    matrices = batch("gated", size)
    exact = torch.linalg.eigvals(matrices).abs().amax(1)
    with FakeDevice() as device:
        found = dense_radius(Held(matrices))
    torch.testing.assert_close(found.values, exact, rtol=1e-9, atol=0)
    assert device.waits.total() == 1


@needs_cuda
@pytest.mark.parametrize("size", [20, 200, 300])
def test_matrices_stored_by_columns_are_not_overwritten(size: int) -> None:
    matrices = batch("rotations", size).mT.contiguous().mT.cuda()
    before = matrices.clone()
    found = eigenvalues(matrices)
    assert found.device == matrices.device
    torch.testing.assert_close(matrices, before, rtol=0, atol=0)
    assert bool(dense_radius(matrices.float()).converged.all())
