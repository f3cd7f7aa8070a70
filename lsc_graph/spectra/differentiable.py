"""The spectral radius and the gain as differentiable functions of matrices.

For a simple eigenvalue with left and right eigenvectors w, v: d lambda = w^H dM v / (w^H v), so that
d |lambda| = Re(conj(lambda) w^H dM v / (w^H v)) / |lambda| (J. R. Magnus, "On differentiating eigenvalues and
eigenvectors", Econometric Theory 1985). No eigenvalue solver is differentiated, and large matrices need no
eigenvectors but the dominant ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lsc_graph.spectra.arnoldi import dominant_values
from lsc_graph.spectra.eigenvectors import Eigenvectors, eigenvectors

# Beyond these a derivative is not given: to first order it says nothing that a step could follow.
MAX_CONDITION = 1e5
MAX_RESIDUAL = 1e-6
# Up to this size the eigenvalue comes from all eigenvalues; beyond it from Krylov iteration, refined.
MAX_DENSE = 256


@dataclass(frozen=True)
class Derivative:
    """What is known of the derivative at each of P matrices.

    `is_known` [P] is False where the dominant eigenvalue is defective or badly conditioned, zero, or not
    resolved by its eigenvectors; `conditions` [P] and `residuals` [P] say why.
    """

    is_known: Tensor
    conditions: Tensor
    residuals: Tensor


def differentiable_radius(matrices: Tensor) -> tuple[Tensor, Derivative]:
    """Spectral radii [P] of matrices [P, n, n], with their derivative where there is one to trust.

    Where `is_known` is False the gradient is zero and the value is still the radius that was found.
    """
    radius, known, conditions, residuals = _Radius.apply(matrices)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return radius, Derivative(known, conditions, residuals)


def differentiable_gain(matrices: Tensor) -> Tensor:
    """||M||_F / (n_out n_in)^(1/4) [P] of matrices [P, n_out, n_in], differentiable everywhere."""
    rows, columns = matrices.shape[-2:]
    squares = matrices.square().flatten(1).sum(1)
    is_zero = squares == 0
    norms = torch.where(is_zero, torch.ones_like(squares), squares).sqrt()
    gains: Tensor = torch.where(is_zero, torch.zeros_like(norms), norms) / (rows * columns) ** 0.25
    return gains


def dominant_eigenvectors(matrices: Tensor) -> Eigenvectors:
    """The dominant eigenvalue of matrices [P, n, n] (float64) with its eigenvectors, refined by them."""
    if matrices.shape[-1] <= MAX_DENSE:
        values = torch.linalg.eigvals(matrices)
        top = values.gather(1, values.abs().argmax(1)[:, None])[:, 0]
    else:
        top = dominant_values(matrices)
    pair = eigenvectors(matrices, top)
    # The two-sided Rayleigh quotient is off by the product of both vectors' errors only.
    overlap = (pair.left.conj() * pair.right).sum(1)
    products = (matrices.to(top.dtype) @ pair.right[:, :, None])[:, :, 0]
    quotient = (pair.left.conj() * products).sum(1) / overlap
    refined = torch.where(pair.conditions < MAX_CONDITION, quotient, top)
    return eigenvectors(matrices, refined) if matrices.shape[-1] > MAX_DENSE else pair


class _Radius(torch.autograd.Function):
    """max |lambda| with the derivative of the dominant eigenvalue."""

    @staticmethod
    def forward(ctx: Any, matrices: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        exact = matrices.detach().double()
        pair = dominant_eigenvectors(exact)
        radius, conditions = pair.values.abs(), pair.conditions
        known = (conditions < MAX_CONDITION) & (pair.residuals < MAX_RESIDUAL) & (radius > 0)
        overlap = (pair.left.conj() * pair.right).sum(1)
        scale = pair.values.conj() / (radius * overlap)
        scale = torch.where(known, scale, torch.zeros_like(scale))
        ctx.save_for_backward(scale[:, None] * pair.left.conj(), pair.right)
        ctx.dtype = matrices.dtype
        ctx.mark_non_differentiable(known, conditions, pair.residuals)
        return radius.to(matrices.dtype), known, conditions, pair.residuals

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        rows, columns = ctx.saved_tensors
        outer = (rows[:, :, None] * columns[:, None, :]).real
        gradient: Tensor = (gradients[0].double()[:, None, None] * outer).to(ctx.dtype)
        return gradient
