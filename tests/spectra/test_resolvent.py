"""Resolvents undo what shifted matrices do, and shifts are told apart by type."""

from __future__ import annotations

import pytest
import torch
from spectra_cases import batch

from lsc_graph.spectra.resolvent import Resolvent, by_type


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("adjoint", [False, True])
def test_a_resolvent_undoes_the_shifted_matrix(dtype: torch.dtype, adjoint: bool) -> None:
    matrices = batch("gated", 12)
    shifts = torch.tensor([1.5, -0.3, 2.0], dtype=dtype) * (1 if dtype == torch.float64 else 1 + 1j)
    vectors = torch.randn(3, 12, 2, dtype=dtype)
    shifted = matrices - shifts[:, None, None] * torch.eye(12)
    found = Resolvent.of(matrices, shifts)(vectors, adjoint=adjoint)
    torch.testing.assert_close((shifted.mH if adjoint else shifted) @ found, vectors)


def test_matrices_are_left_as_they_are() -> None:
    matrices = batch("gated", 12)
    before = matrices.clone()
    Resolvent.of(matrices, torch.ones(3, dtype=torch.float64))
    assert torch.equal(matrices, before)


def test_real_shifts_are_told_from_others() -> None:
    shifts = torch.tensor([1 + 0j, 2 + 1j, 3 + 0j], dtype=torch.complex128)
    (real, as_real), (others, as_complex) = by_type(shifts)
    assert real.tolist() == [0, 2]
    assert as_real.tolist() == [1.0, 3.0]
    assert others.tolist() == [1]
    assert as_complex.tolist() == [2 + 1j]


def test_where_all_are_of_one_type_there_is_no_other_part() -> None:
    assert len(list(by_type(torch.ones(3, dtype=torch.complex128)))) == 1
