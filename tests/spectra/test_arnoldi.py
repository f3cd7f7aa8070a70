"""Krylov spaces obey their defining relation, across restarts as well."""

from __future__ import annotations

import pytest
import torch
from spectra_cases import SPECTRA, batch

from lsc_graph.spectra.arnoldi import Krylov, arnoldi_radius
from lsc_graph.spectra.operator import Operator, dense_operator, gram_operator


def residual_of_relation(krylov: Krylov, matrices: torch.Tensor) -> torch.Tensor:
    """M V_m^T - V_(m+1)^T H."""
    size = krylov.size
    rows, matrix = krylov.basis[:, : size + 1], krylov.matrix[:, : size + 1, :size]
    return matrices @ rows[:, :size].transpose(1, 2) - rows.transpose(1, 2) @ matrix


@pytest.mark.parametrize("name", SPECTRA)
def test_the_arnoldi_relation_holds_and_the_basis_is_orthonormal(name: str) -> None:
    matrices = batch(name, 50)
    operator = dense_operator(matrices)
    krylov = Krylov.start(operator, 20, torch.Generator().manual_seed(0))
    for kept in (0, 8, 7):
        if kept:
            krylov.restarted(kept)
        krylov.grow(operator, 20)
        assert float(residual_of_relation(krylov, matrices).abs().max()) < 1e-10
        gram = krylov.basis @ krylov.basis.transpose(1, 2)
        lengths = torch.diagonal(gram, dim1=1, dim2=2)
        # A vector is zero where a complex pair would have been parted.
        assert bool(torch.isclose(lengths, torch.ones_like(lengths)).logical_or(lengths < 1e-20).all())
        assert float((gram - torch.diag_embed(lengths)).abs().max()) < 1e-10


def test_restarts_find_what_one_small_basis_does_not() -> None:
    matrices = batch("gaussian", 150)
    exact = torch.linalg.eigvals(matrices).abs().amax(1)
    once = arnoldi_radius(dense_operator(matrices), max_basis=24, max_restarts=0, tolerance=1e-6)
    often = arnoldi_radius(dense_operator(matrices), max_basis=24, max_restarts=80, tolerance=1e-6)
    assert not bool(once.converged.any())
    assert bool(often.converged.all())
    torch.testing.assert_close(often.values, exact, rtol=1e-5, atol=0)


def test_an_operator_needs_no_matrix() -> None:
    diagonal = torch.linspace(0.1, 0.9, 3000, dtype=torch.float64).expand(2, -1)

    def of(numbers: torch.Tensor) -> Operator:
        here = diagonal[numbers]

        def apply(vectors: torch.Tensor) -> torch.Tensor:
            return here * vectors + 0.05 * vectors.roll(1, 1)

        return Operator(
            apply, len(here), 3000, torch.float64, torch.device("cpu"), lambda at: of(numbers[at])
        )

    shifted = of(torch.arange(2))
    found = arnoldi_radius(shifted, max_restarts=20)
    dense = torch.diag(diagonal[0]) + 0.05 * torch.eye(3000, dtype=torch.float64).roll(1, 0)
    probe = torch.randn(2, 3000, dtype=torch.float64)
    torch.testing.assert_close(shifted.apply(probe), probe @ dense.T)
    # Gershgorin: no eigenvalue is farther out than 0.95.
    assert bool((found.values <= 0.95 + 1e-6).all())
    assert bool((found.values >= 0.85).all())


def test_an_invariant_space_ends_the_iteration_exactly() -> None:
    low_rank = torch.zeros(2, 90, 90, dtype=torch.float64)
    low_rank[:, 0, 0], low_rank[:, 1, 0] = 0.7, 3.0
    found = arnoldi_radius(dense_operator(low_rank))
    assert bool(found.converged.all())
    torch.testing.assert_close(found.values, torch.full((2,), 0.7, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(2, 30, 50), (2, 50, 30), (2, 40, 40)])
def test_the_gram_operator_has_the_squared_singular_values(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    operator = gram_operator(matrices)
    assert operator.size == min(shape[1:])
    found = arnoldi_radius(operator, tolerance=1e-8)
    exact = torch.linalg.matrix_norm(matrices, ord=2)
    torch.testing.assert_close(found.values.sqrt(), exact, rtol=1e-6, atol=0)
