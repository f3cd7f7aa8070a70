"""Eigenvectors and condition numbers against what their definitions say."""

from __future__ import annotations

import pytest
import torch
from spectra_cases import batch

from lsc_graph.spectra.dense import dense_radius
from lsc_graph.spectra.eigenvectors import eigenvectors


def test_left_and_right_vectors_obey_their_equations() -> None:
    matrices = batch("gaussian", 30)
    values = torch.linalg.eigvals(matrices)[:, 3]
    pair = eigenvectors(matrices, values)
    maps = matrices.to(torch.complex128)
    torch.testing.assert_close((maps @ pair.right[..., None])[..., 0], values[:, None] * pair.right)
    torch.testing.assert_close((pair.left.conj()[:, None] @ maps)[:, 0], values[:, None] * pair.left.conj())
    assert float(pair.residuals.max()) < 1e-10


def test_real_and_complex_eigenvalues_of_one_batch_have_vectors_of_their_own_kind() -> None:
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    matrices = torch.stack([torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64)), 2 * turn])
    pair = eigenvectors(matrices, torch.tensor([3.0, 2.0j], dtype=torch.complex128))
    assert not bool(pair.left[0].imag.any() or pair.right[0].imag.any())
    assert bool(pair.right[1].imag.any())
    assert float(pair.residuals.max()) < 1e-10


def test_the_condition_number_is_how_far_a_perturbation_moves_the_eigenvalue() -> None:
    matrices = batch("transient", 20)
    found = dense_radius(matrices)
    eigenvalues = torch.linalg.eigvals(matrices)
    top = eigenvalues.gather(1, eigenvalues.abs().argmax(1)[:, None])[:, 0]
    pair = eigenvectors(matrices, top)
    step = 1e-8
    # The perturbation w v^H of unit norm moves it farthest.
    worst = (pair.left[:, :, None] * pair.right.conj()[:, None, :]).real
    moved = torch.linalg.eigvals(matrices + step * worst)
    shifts = (moved - top[:, None]).abs().amin(1) / step
    factor = (pair.left.conj()[:, None] @ worst.to(top.dtype) @ pair.right[:, :, None]).abs().flatten()
    torch.testing.assert_close(shifts, factor * found.conditions, rtol=1e-3, atol=0)


def test_a_normal_matrix_has_condition_one_and_a_defective_one_none() -> None:
    symmetric = batch("gaussian", 12)
    symmetric = symmetric + symmetric.transpose(1, 2)
    assert float(dense_radius(symmetric).conditions.max()) == pytest.approx(1.0, abs=1e-9)
    jordan = torch.tensor([[[0.5, 1.0], [0.0, 0.5]]], dtype=torch.float64)
    assert float(dense_radius(jordan).conditions) > 1e6
