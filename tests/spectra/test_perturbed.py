"""How far error bars of matrices move spectral radii: attained by the worst change, and exceeded by none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lsc_graph.spectra.perturbed import block_bars, radius_bars

SIZE, KAPPA = 12, 1e4


def non_normal(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A matrix with a radius of 0.9 and a condition number about KAPPA, and its unit eigenvectors."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64))[0]
    inner = torch.diag(torch.linspace(0.9, 0.1, SIZE, dtype=torch.float64))
    inner[0, 1] = KAPPA * float(inner[0, 0] - inner[1, 1])
    matrix = turn @ inner @ turn.T
    values, right = torch.linalg.eig(matrix)
    left = torch.linalg.eig(matrix.T)
    v = right[:, values.abs().argmax()].real
    w = left.eigenvectors[:, left.eigenvalues.abs().argmax()].real
    return matrix, w / w.norm(), v / v.norm()


def radius(matrix: Tensor) -> float:
    return float(torch.linalg.eigvals(matrix).abs().max())


def test_a_non_normal_matrix_has_a_bar_that_the_worst_change_attains() -> None:
    matrix, w, v = non_normal()
    lengths = torch.logspace(-13, -11, SIZE, dtype=torch.float64)
    worst = torch.sign(w @ v) * w[:, None] * (lengths * v.sign())[None]
    (bar,) = radius_bars(matrix[None], worst[None]).tolist()
    assert bar == pytest.approx(float((lengths * v.abs()).sum() / (w @ v).abs()), rel=1e-2)
    assert bar > 0.1 * KAPPA * float(lengths.norm())
    assert radius(matrix + worst) - radius(matrix) == pytest.approx(bar, rel=0.05)


def test_no_change_of_the_same_columns_moves_it_farther() -> None:
    matrix, *_ = non_normal()
    generator = torch.Generator().manual_seed(1)
    lengths = torch.logspace(-12, -10, SIZE, dtype=torch.float64)
    moved = []
    for _ in range(50):
        change = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
        change *= lengths / change.norm(dim=0)
        (bar,) = radius_bars(matrix[None], change[None]).tolist()
        moved.append(abs(radius(matrix + change) - radius(matrix)) / bar)
    assert 0.01 < max(moved) <= 1.0


def test_a_rival_that_is_badly_conditioned_counts() -> None:
    """The dominant eigenvalue stands apart; that of the other block overtakes it at once."""
    matrix = torch.block_diag(torch.tensor([[1.0]]), torch.tensor([[0.9, 1e4], [0.0, 0.7]])).double()
    change = torch.zeros_like(matrix)
    change[2, 1] = 1e-4
    (bar,) = radius_bars(matrix[None], change[None]).tolist()
    assert bar >= radius(matrix + change) - 1 > 0.5


def test_a_defective_eigenvalue_is_unknown_where_anything_may_change() -> None:
    jordan = 0.5 * torch.eye(4, dtype=torch.float64) + torch.diag(torch.ones(3, dtype=torch.float64), 1)
    nilpotent = jordan - 0.5 * torch.eye(4, dtype=torch.float64)
    change = torch.full((4, 4), 1e-6, dtype=torch.float64)
    bars = radius_bars(torch.stack([jordan, nilpotent]), torch.stack([change, change]))
    assert bool((bars > torch.tensor([0.5, 0.0])).all())


def test_what_is_known_exactly_has_no_bar() -> None:
    matrices = torch.stack([torch.zeros(3, 3), torch.eye(3), torch.diag(torch.ones(2), 1)])
    assert radius_bars(matrices, torch.zeros(3, 3, 3)).tolist() == [0.0, 0.0, 0.0]


def test_what_is_not_finite_is_unknown_alone() -> None:
    matrices = torch.stack([torch.eye(2), torch.full((2, 2), torch.nan), torch.eye(2)])
    changes = torch.full((3, 2, 2), 1e-3)
    changes[2, 0, 0] = torch.inf
    bars = radius_bars(matrices, changes)
    assert 1e-3 <= float(bars[0]) < 1e-2
    assert bars[1:].isinf().all()


def test_blocks_are_as_the_matrix_that_they_make() -> None:
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randn(2, 3, 2, 2, generator=generator, dtype=torch.float64)
    changes = 1e-7 * torch.randn(2, 3, 2, 2, generator=generator, dtype=torch.float64)
    whole, moved = (torch.stack([torch.block_diag(*point) for point in own]) for own in (blocks, changes))
    torch.testing.assert_close(block_bars(blocks, changes), radius_bars(whole, moved), rtol=1e-4, atol=0)
