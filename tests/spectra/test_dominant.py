"""The dominant eigenvalue and its eigenvectors are those that all eigenvalues give, in any batch."""

from __future__ import annotations

import pytest
import torch
from spectra_cases import SPECTRA, batch, orthogonal
from torch import Tensor

from lsc_graph.spectra import dominant
from lsc_graph.spectra.dominant import dominant_eigenvectors, is_trusted
from lsc_graph.spectra.eigenvectors import Eigenvectors
from lsc_graph.spectra.outermost import SAME

SIZE = 150


def crowded(seed: int) -> Tensor:
    """[SIZE, SIZE]: forty leaky units that hardly differ, which the others feed and are fed by."""
    generator = torch.Generator().manual_seed(seed)
    decays = torch.cat(
        [
            0.9925 + 0.0024 * torch.rand(40, generator=generator, dtype=torch.float64),
            0.5 * torch.rand(SIZE - 40, generator=generator, dtype=torch.float64),
        ]
    )
    coupling = 1e-3 * torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
    basis = orthogonal(generator, SIZE)
    return basis @ (torch.diag(decays) + coupling) @ basis.T


def radii(matrices: Tensor) -> Tensor:
    return torch.linalg.eigvals(matrices).abs().amax(1)


def derivative(pair: Eigenvectors) -> Tensor:
    """d |lambda| / dM [P, n, n]."""
    overlap = (pair.left.conj() * pair.right).sum(1)
    phase = pair.values.conj() / pair.values.abs() / overlap
    outer = phase[:, None, None] * pair.left.conj()[:, :, None] * pair.right[:, None, :]
    return outer.real


@pytest.mark.parametrize("size", [50, 120, 200])
@pytest.mark.parametrize("name", list(SPECTRA))
def test_it_is_the_largest_of_all(name: str, size: int) -> None:
    matrices = batch(name, size, seed=3)
    found = dominant_eigenvectors(matrices)
    assert bool(is_trusted(found).all())
    torch.testing.assert_close(found.values.abs(), radii(matrices), rtol=SAME, atol=0)


def test_where_eigenvalues_crowd_it_is_the_outermost_of_them() -> None:
    matrices = torch.stack([crowded(seed) for seed in range(12)])
    found = dominant_eigenvectors(matrices)
    torch.testing.assert_close(found.values.abs(), radii(matrices), rtol=SAME, atol=0)


def test_eigenvectors_are_of_that_eigenvalue() -> None:
    matrices = torch.stack([crowded(0), batch("gated", SIZE)[0]])
    found = dominant_eigenvectors(matrices)
    right, left = found.right[..., None], found.left[..., None]
    matrices = matrices.to(right.dtype)
    values = found.values[:, None, None]
    torch.testing.assert_close(matrices @ right, values * right, rtol=0, atol=1e-8)
    torch.testing.assert_close(matrices.mH @ left, values.conj() * left, rtol=0, atol=1e-8)


@pytest.mark.parametrize("others", ["gaussian", "outlier"])
def test_which_others_are_in_a_batch_changes_neither_value_nor_derivative(others: str) -> None:
    matrices = torch.cat([batch(others, SIZE), torch.stack([crowded(seed) for seed in range(6)])])
    together = dominant_eigenvectors(matrices)
    for number in range(len(matrices)):
        alone = dominant_eigenvectors(matrices[number : number + 1])
        torch.testing.assert_close(alone.values[0].abs(), together.values[number].abs(), rtol=1e-9, atol=0)
        torch.testing.assert_close(derivative(alone)[0], derivative(together)[number], rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [50, 150])
def test_many_of_one_value_give_the_same_derivative_at_any_place_in_a_batch(size: int) -> None:
    matrix = torch.diag(torch.cat([torch.full((20,), 0.9), torch.linspace(0, 0.8, size - 20)])).double()
    found = derivative(dominant_eigenvectors(matrix.expand(4, -1, -1)))
    torch.testing.assert_close(found, found[:1].expand_as(found))


def test_too_many_of_one_modulus_are_all_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    every = dominant.eigenvalues
    monkeypatch.setattr(dominant, "eigenvalues", lambda own: seen.append(own.shape[-1]) or every(own))
    matrices = batch("rotations", SIZE)
    found = dominant_eigenvectors(matrices)
    assert SIZE in seen
    torch.testing.assert_close(found.values.abs(), radii(matrices))


def lru_like(size: int, seed: int) -> Tensor:
    """[size, size] of rotations whose moduli crowd below 1."""
    generator = torch.Generator().manual_seed(seed)
    moduli = 0.9 + 0.0999 * torch.rand(size // 2, generator=generator, dtype=torch.float64).sqrt()
    angles = 0.3 * torch.rand(size // 2, generator=generator, dtype=torch.float64)
    cosines, sines = moduli * angles.cos(), moduli * angles.sin()
    blocks = torch.stack([torch.stack([cosines, -sines], 1), torch.stack([sines, cosines], 1)], 1)
    return torch.block_diag(*blocks)


def test_where_moduli_crowd_all_around_it_is_off_by_little_if_at_all() -> None:
    matrices = torch.stack([lru_like(128, seed) for seed in range(60)])
    off = (dominant_eigenvectors(matrices).values.abs() / radii(matrices) - 1).abs()
    assert float((off > 2 * SAME).double().mean()) < 0.05
    assert float(off.max()) < 5e-3


def test_what_one_vector_misses_another_one_sees() -> None:
    generator = torch.Generator().manual_seed(4)
    forget = torch.sigmoid(2 + 1.5 * torch.randn(96, generator=generator, dtype=torch.float64))
    weights = torch.randn(96, 96, generator=generator, dtype=torch.float64) / 96**0.5
    matrix = (torch.diag(1 - forget) @ weights + torch.diag(forget))[None]
    torch.testing.assert_close(dominant_eigenvectors(matrix).values.abs(), radii(matrix), rtol=SAME, atol=0)


def test_most_are_found_without_all_eigenvalues(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    every = dominant.eigenvalues
    monkeypatch.setattr(dominant, "eigenvalues", lambda own: seen.append(own.shape) or every(own))
    dominant_eigenvectors(torch.stack([crowded(seed) for seed in range(8)]))
    assert not any(shape[-1] == SIZE for shape in seen)


def test_a_value_that_is_none_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = lambda matrices, rough, widths: 0.97 * rough[:, 0]  # noqa: E731  # stands in for a function
    monkeypatch.setattr(dominant, "outermost_values", wrong)
    matrices = torch.stack([crowded(seed) for seed in range(3)])
    torch.testing.assert_close(
        dominant_eigenvectors(matrices).values.abs(), radii(matrices), rtol=SAME, atol=0
    )


@pytest.mark.parametrize("scale", [1e-250, 1e-20, 1.0, 1e20, 1e250])
def test_it_is_as_good_at_any_scale(scale: float) -> None:
    """A hundred eigenvalues within a hundredth of the largest one, which is 1."""
    turn = orthogonal(torch.Generator().manual_seed(0), 128)
    matrices = (turn @ torch.linspace(0.99, 1, 128, dtype=torch.float64).diag() @ turn.mT)[None]
    found = dominant_eigenvectors(scale * matrices)
    assert float(found.values.abs()) / scale == pytest.approx(1, rel=1e-5)
    assert bool(is_trusted(found).all())


@pytest.mark.parametrize("size", [60, 128, 200])
def test_one_that_is_not_finite_has_none_and_leaves_the_others_theirs(size: int) -> None:
    matrices = batch("gaussian", size)
    expected = torch.linalg.eigvals(matrices).abs().amax(1)
    matrices[1, 0, 0] = torch.nan
    found = dominant_eigenvectors(matrices)
    assert is_trusted(found).tolist() == [True, False, True]
    assert bool(found.values[1].isnan())
    kept = torch.tensor([0, 2])
    torch.testing.assert_close(found.values[kept].abs(), expected[kept], rtol=1e-5, atol=0)


def test_matrices_of_zeros_have_no_derivative() -> None:
    found = dominant_eigenvectors(torch.zeros(2, SIZE, SIZE, dtype=torch.float64))
    assert not bool(is_trusted(found).any())
    assert not bool(found.values.any())


def test_large_matrices_have_the_derivative_that_all_eigenvalues_give(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matrices = torch.cat([batch("gated", SIZE), batch("outlier", SIZE), crowded(1)[None]])
    by_krylov = derivative(dominant_eigenvectors(matrices))
    monkeypatch.setattr(dominant, "KRYLOV_FROM", 1000)
    by_all = derivative(dominant_eigenvectors(matrices))
    torch.testing.assert_close(by_krylov, by_all, rtol=1e-6, atol=1e-8)
