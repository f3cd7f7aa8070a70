"""The outermost of eigenvalues that crowd is found, wherever rough values stand among them."""

from __future__ import annotations

import math

import pytest
import torch
from spectra_cases import orthogonal
from torch import Tensor

from lsc_graph.spectra.outermost import SAME, outermost_values

SIZE = 60


def with_eigenvalues(values: list[complex], seed: int = 0) -> Tensor:
    """[SIZE, SIZE] with these, their conjugates, and others within 0.7; its basis is not orthogonal."""
    blocks = [
        torch.tensor([[v.real, v.imag], [-v.imag, v.real]] if v.imag else [[v.real]], dtype=torch.float64)
        for v in map(complex, values)
    ]
    generator = torch.Generator().manual_seed(seed)
    rest = SIZE - sum(len(block) for block in blocks)
    inner = 0.7 * torch.rand(rest, generator=generator, dtype=torch.float64)
    whole = torch.block_diag(*blocks, torch.diag(inner))
    basis = orthogonal(generator, SIZE) @ torch.diag(torch.linspace(1, 3, SIZE, dtype=torch.float64))
    return basis @ whole @ torch.linalg.inv(basis)


def found(matrix: Tensor, rough: list[complex], width: float) -> complex:
    values = torch.tensor([rough], dtype=torch.complex128)
    return complex(outermost_values(matrix[None], values, torch.tensor([width], dtype=torch.float64))[0])


@pytest.mark.parametrize("spread", [2e-3, 2e-4, 3e-5])
@pytest.mark.parametrize("at", [0.0, 0.4, 1.0])
def test_among_real_ones_that_crowd_it_is_the_largest(spread: float, at: float) -> None:
    crowd = [0.9 * (1 - spread * part / 12) for part in range(13)]
    rough = 0.9 * (1 - spread * at)
    assert abs(found(with_eigenvalues([complex(own) for own in crowd]), [rough], 2e-3)) == pytest.approx(
        0.9, rel=SAME
    )


def test_eigenvalues_that_coincide_are_found_as_one() -> None:
    assert found(with_eigenvalues([0.9 + 0j] * 20), [0.8995], 1e-3) == pytest.approx(0.9, rel=SAME)


def test_of_complex_ones_next_to_each_other_it_is_the_largest() -> None:
    angles = [0.5, 0.501, 0.502, 0.503]
    moduli = [0.9, 0.9005, 0.901, 0.9002]
    crowd = [complex(r * math.cos(a), r * math.sin(a)) for r, a in zip(moduli, angles, strict=True)]
    assert abs(found(with_eigenvalues(crowd), [crowd[0]], 2e-3)) == pytest.approx(0.901, rel=1e-9)


@pytest.mark.parametrize("order", [1, -1])
def test_the_outermost_may_be_next_to_a_value_that_seems_to_be_less(order: int) -> None:
    crowd = [0.9 + 0j, 0.5 + 0.7485j]
    rough = [0.9 + 0j, 0.5 + 0.747j, 0.5 - 0.747j][::order]
    expected = max(map(abs, crowd))
    assert expected > 0.9 > abs(rough[1])
    assert abs(found(with_eigenvalues(crowd), rough, 4e-3)) == pytest.approx(expected, rel=1e-9)


def test_values_may_stand_in_any_order() -> None:
    assert abs(found(with_eigenvalues([0.95 + 0j, 0.9 + 0j]), [0.9, 0.5, 0.95], 1e-3)) == pytest.approx(0.95)


def test_what_is_far_from_all_that_is_known_is_not_taken() -> None:
    assert math.isnan(abs(found(with_eigenvalues([0.7 + 0j, 0.894j]), [0.9], 1e-3)))


def test_where_too_many_values_may_lead_to_it_nothing_is_found() -> None:
    crowd = [complex(0.9 * math.cos(a), 0.9 * math.sin(a)) for a in (0.3, 0.8, 1.3, 1.8)]
    assert math.isnan(abs(found(with_eigenvalues(crowd), crowd, 2e-3)))
    assert abs(found(with_eigenvalues(crowd[:3]), crowd[:3], 2e-3)) == pytest.approx(0.9)


def test_each_of_a_batch_is_found_as_if_alone() -> None:
    crowds = [[0.9 - 1e-5 * k + 0j for k in range(9)], [0.8 + 0.1j], [0.95 + 0j]]
    matrices = torch.stack([with_eigenvalues([complex(v) for v in own], 1) for own in crowds])
    rough = torch.tensor([[0.8999], [0.8 + 0.101j], [0.9501]], dtype=torch.complex128)
    widths = torch.full((3,), 1e-3, dtype=torch.float64)
    together = outermost_values(matrices, rough, widths)
    alone = [outermost_values(matrices[k : k + 1], rough[k : k + 1], widths[:1])[0] for k in range(3)]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-9, atol=0)
    torch.testing.assert_close(
        together.abs(), torch.tensor([0.9, abs(0.8 + 0.1j), 0.95], dtype=torch.float64), rtol=SAME, atol=0
    )


def test_matrices_of_zeros_have_nothing_to_find() -> None:
    zeros = torch.zeros(1, 5, 5, dtype=torch.float64)
    rough = torch.zeros(1, 5, dtype=torch.complex128)
    assert bool(outermost_values(zeros, rough, torch.ones(1, dtype=torch.float64)).isnan().all())


@pytest.mark.parametrize("scale", [1e-50, 1.0, 1e50])
def test_scales_do_not_matter(scale: float) -> None:
    matrix = with_eigenvalues([0.9 + 0j, 0.8999 + 0j])
    assert abs(found(scale * matrix, [0.8997 * scale], 1e-3)) == pytest.approx(0.9 * scale, rel=SAME)
