"""The spectral radius and the gain as differentiable functions of matrices.

For a simple eigenvalue with left and right eigenvectors w, v: d lambda = w^H dM v / (w^H v), so that
d |lambda| = Re(conj(lambda) w^H dM v / (w^H v)) / |lambda| (J. R. Magnus, "On differentiating eigenvalues and
eigenvectors", Econometric Theory 1985). No eigenvalue solver is differentiated, and large matrices need no
eigenvectors but the dominant ones (`lsc_graph.spectra.dominant`). Pre-training takes these as they are, since
its matrices are known through products alone. `differentiable_radius` and `differentiable_gain` are for
losses of one's own, where autograd knows the matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lsc_graph.spectra.dominant import dominant_eigenvectors, is_trusted


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


class _Radius(torch.autograd.Function):
    """max |lambda| with the derivative of the dominant eigenvalue."""

    @staticmethod
    def forward(ctx: Any, matrices: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        exact = matrices.detach().double()
        pair = dominant_eigenvectors(exact)
        radius, conditions, known = pair.values.abs(), pair.conditions, is_trusted(pair)
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
