"""All eigenvalues, on the host or on the device that matrices are on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cuda_only import needs_cuda
from fake_device import FakeDevice, Held
from spectra_cases import batch

from lsc_graph.spectra.dense import dense_radius
from lsc_graph.spectra.eigenvalues import ON_CUDA_FROM, eigenvalues


def test_they_are_those_of_numpy_for_any_number_of_axes_before() -> None:
    matrices = batch("gated", 6).reshape(1, -1, 6, 6)
    found = eigenvalues(matrices.float())
    assert found.shape == matrices.shape[:-1]
    expected = np.linalg.eigvals(matrices.float().double().numpy())
    for own, other in zip(found.reshape(-1, 6), expected.reshape(-1, 6), strict=True):
        np.testing.assert_allclose(np.sort_complex(own.numpy()), np.sort_complex(other), atol=1e-12)


@pytest.mark.parametrize("size", [ON_CUDA_FROM - 1, ON_CUDA_FROM])
def test_dense_radii_wait_once_beside_what_torch_may_wait_for_by_itself(size: int) -> None:
    matrices = batch("gated", size)
    exact = torch.linalg.eigvals(matrices).abs().amax(1)
    with FakeDevice() as device:
        found = dense_radius(Held(matrices))
    torch.testing.assert_close(found.values, exact, rtol=1e-9, atol=0)
    assert device.waits.total() == 1


@needs_cuda
@pytest.mark.parametrize("size", [ON_CUDA_FROM - 24, ON_CUDA_FROM + 76])
def test_matrices_stored_by_columns_are_not_overwritten(size: int) -> None:
    matrices = batch("rotations", size).mT.contiguous().mT.cuda()
    before = matrices.clone()
    found = eigenvalues(matrices)
    assert found.device == matrices.device
    torch.testing.assert_close(matrices, before, rtol=0, atol=0)
    assert bool(dense_radius(matrices.float()).converged.all())
