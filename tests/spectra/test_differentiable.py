"""Derivatives of radius and gain agree with finite differences, and are not given where there is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from spectra_cases import HARD, batch
from torch import Tensor

from lsc_graph.spectra.differentiable import differentiable_gain, differentiable_radius


def radius_of(matrices: Tensor) -> Tensor:
    return torch.linalg.eigvals(matrices).abs().amax(1)


def central(function: Callable[[Tensor], Tensor], matrices: Tensor, direction: Tensor) -> Tensor:
    step = 1e-6
    return (function(matrices + step * direction) - function(matrices - step * direction)) / (2 * step)


@pytest.mark.parametrize("name", ["gaussian", "gated", "clustered", "outlier"])
@pytest.mark.parametrize("size", [5, 40])
def test_the_gradient_of_the_radius_agrees_with_finite_differences(name: str, size: int) -> None:
    matrices = batch(name, size).requires_grad_()
    radius, derivative = differentiable_radius(matrices)
    assert bool(derivative.is_known.all())
    torch.testing.assert_close(radius.detach(), radius_of(matrices.detach()))
    (gradient,) = torch.autograd.grad(radius.sum(), matrices)
    direction = torch.randn(matrices.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    along = (gradient * direction).flatten(1).sum(1)
    torch.testing.assert_close(along, central(radius_of, matrices.detach(), direction), rtol=1e-4, atol=1e-7)


def test_it_agrees_with_autograd_through_all_eigenvalues() -> None:
    matrices = batch("outlier", 12).requires_grad_()
    ours, _ = differentiable_radius(matrices)
    (gradient,) = torch.autograd.grad(ours.sum(), matrices)
    (expected,) = torch.autograd.grad(radius_of(matrices).sum(), matrices)
    torch.testing.assert_close(gradient, expected)


def test_defective_and_zero_matrices_are_reported_and_have_no_gradient() -> None:
    jordan = torch.tensor([[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [0.0, 0.0, 0.5]], dtype=torch.float64)
    matrices = torch.stack(
        [jordan, torch.zeros(3, 3, dtype=torch.float64), torch.diag(torch.arange(3.0).double())]
    )
    matrices.requires_grad_()
    radius, derivative = differentiable_radius(matrices)
    assert derivative.is_known.tolist() == [False, False, True]
    assert float(derivative.conditions[0]) > 1e5
    (gradient,) = torch.autograd.grad(radius.sum(), matrices)
    assert not bool(gradient[:2].any())
    assert float(gradient[2, 2, 2]) == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(2, 6, 6), (2, 4, 9)])
def test_the_gradient_of_the_gain_agrees_with_finite_differences(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(differentiable_gain(matrices).sum(), matrices)
    along = (gradient * direction).flatten(1).sum(1)
    torch.testing.assert_close(
        along, central(differentiable_gain, matrices.detach(), direction), rtol=1e-5, atol=0
    )


def test_the_gain_is_differentiable_at_zero() -> None:
    matrices = torch.zeros(1, 3, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(differentiable_gain(matrices).sum(), matrices)
    assert not bool(gradient.any())


def test_single_precision_comes_back_in_single_precision() -> None:
    matrices = batch("outlier", 10).float().requires_grad_()
    radius, _ = differentiable_radius(matrices)
    (gradient,) = torch.autograd.grad(radius.sum(), matrices)
    assert radius.dtype == gradient.dtype == torch.float32


def test_what_a_krylov_space_takes_for_an_eigenvalue_falls_back_on_all_of_them() -> None:
    size = 150
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    jordan = 0.5 * torch.eye(size, dtype=torch.float64) + torch.diag(
        torch.ones(size - 1, dtype=torch.float64), 1
    )
    matrices = torch.stack([basis @ jordan @ basis.T, batch("outlier", size)[0]]).requires_grad_()
    radius, derivative = differentiable_radius(matrices)
    assert derivative.is_known.tolist() == [False, True]
    assert float(radius[1].detach()) == pytest.approx(float(radius_of(matrices[1:].detach())), rel=1e-9)
    (gradient,) = torch.autograd.grad(radius.sum(), matrices)
    assert not bool(gradient[0].any())


@pytest.mark.parametrize("size", [20, 140])
def test_a_nearly_defective_pair_is_reported_by_its_condition(size: int) -> None:
    matrix = torch.diag(torch.linspace(0, 0.5, size, dtype=torch.float64))
    matrix[0, 0] = matrix[1, 1] = 0.9
    matrix[0, 1], matrix[1, 0] = 1.0, 1e-12
    radius, derivative = differentiable_radius(matrix[None].requires_grad_())
    assert float(derivative.conditions) > 1e5
    assert not bool(derivative.is_known)
    assert float(radius.detach()) == pytest.approx(0.9, rel=1e-4)


@pytest.mark.parametrize("name", ["jordan", "slow leaky cascade", "leaky cascade"])
@pytest.mark.parametrize("size", [20, 150])
def test_a_defective_eigenvalue_has_no_derivative_but_its_value(name: str, size: int) -> None:
    build, exact = HARD[name]
    radius, derivative = differentiable_radius(build(size)[None])
    assert not bool(derivative.is_known)
    assert float(radius) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("size", [2, 8, 130])
@pytest.mark.parametrize("scale", [2.0**-900, 2.0**-400, 2.0**400, 2.0**900])
def test_the_gradient_is_the_same_at_any_scale(scale: float, size: int) -> None:
    gradients = []
    for factor in (1.0, scale):
        matrices = (factor * batch("gated", size)).requires_grad_()
        values, derivative = differentiable_radius(matrices)
        assert bool(derivative.is_known.all())
        values.sum().backward()
        gradients.append(matrices.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-6, atol=1e-9)


def test_a_radius_too_small_for_a_float_of_full_precision_has_no_gradient() -> None:
    matrices = (2.0**-1040 * batch("gated", 8)).requires_grad_()
    values, derivative = differentiable_radius(matrices)
    assert not bool(derivative.is_known.any())
    values.sum().backward()
    assert matrices.grad is not None
    assert not bool(matrices.grad.any())
