"""The spectral radius and the gain as differentiable functions of matrices.

For a simple eigenvalue with left and right eigenvectors w, v: d lambda = w^H dM v / (w^H v), so that
d |lambda| = Re(conj(lambda) w^H dM v / (w^H v)) / |lambda| (J. R. Magnus, "On differentiating eigenvalues and
eigenvectors", Econometric Theory 1985). No eigenvalue solver is differentiated, and large matrices need no
eigenvectors but the dominant ones. Pre-training takes these as they are (`dominant_eigenvectors`), since its
matrices are known through products alone; `differentiable_radius` and `differentiable_gain` are for losses of
one's own, where autograd knows the matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lsc_graph.spectra.arnoldi import dominant_values
from lsc_graph.spectra.eigenvalues import eigenvalues
from lsc_graph.spectra.eigenvectors import Eigenvectors, eigenvectors, refined

# Beyond these a derivative is not given: to first order it says nothing that a step could follow.
MAX_CONDITION = 1e5
MAX_RESIDUAL = 1e-6
# From this size on a Krylov space of so many vectors costs less than all eigenvalues.
KRYLOV_FROM, _BASIS = 96, 64
# An eigenvalue this near to the Ritz value that led to it is the one that dominates.
_AGREEMENT = 2e-3


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


@torch.no_grad()
def dominant_eigenvectors(matrices: Tensor) -> Eigenvectors:
    """The dominant eigenvalue of matrices [P, n, n] (float64) with its eigenvectors.

    By all eigenvalues where these are few; else by a Krylov space, refined by the eigenvectors, and by all
    eigenvalues where that leads to another one or to none.
    """
    if matrices.shape[-1] < KRYLOV_FROM:
        return eigenvectors(matrices, _top(matrices))
    near = dominant_values(matrices.float(), max_basis=_BASIS)
    pair = _again(matrices, near)
    pair = _replaced(pair, ~is_trusted(pair), lambda at: _again(matrices[at], pair.values[at]))
    is_same = (pair.values - near).abs() <= _AGREEMENT * near.abs()
    return _replaced(pair, ~(is_same & is_trusted(pair)), lambda at: _again(matrices[at], _top(matrices[at])))


def is_trusted(pair: Eigenvectors) -> Tensor:
    """Whether a derivative by these eigenvectors says something, for each of P matrices."""
    return (pair.conditions < MAX_CONDITION) & (pair.residuals < MAX_RESIDUAL) & (pair.values.abs() > 0)


def _again(matrices: Tensor, values: Tensor) -> Eigenvectors:
    return refined(matrices, eigenvectors(matrices, values))


def _top(matrices: Tensor) -> Tensor:
    values = eigenvalues(matrices)
    top: Tensor = values.gather(1, values.abs().argmax(1)[:, None])[:, 0]
    return top


def _replaced(pair: Eigenvectors, where: Tensor, other: Callable[[Tensor], Eigenvectors]) -> Eigenvectors:
    """With others at some of the points, which are found only if there are any."""
    at = where.nonzero()[:, 0]
    return pair.with_others(at, other(at)) if len(at) else pair


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
