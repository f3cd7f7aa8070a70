"""Batches of square matrices as estimators see them: dense, or known by their products alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lsc_graph.spectra.handed import handed

Apply = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Operator:
    """P linear maps of R^n, applied together: `apply` maps [P, n] to [P, n], in `dtype` on `device`.

    `at` gives the same for some of the points, by their numbers [K].
    """

    apply: Apply
    num_points: int
    size: int
    dtype: torch.dtype
    device: torch.device
    at: Callable[[Tensor], Operator]


def divided(operator: Operator, scales: Tensor) -> Operator:
    """The maps over positive scales [P]."""

    def at(numbers: Tensor) -> Operator:
        return divided(operator.at(numbers), scales[handed(numbers, scales.device)])

    return replace(operator, apply=lambda vectors: operator.apply(vectors) / scales[:, None], at=at)


def dense_operator(matrices: Tensor) -> Operator:
    """The maps v -> M v of matrices [P, n, n]."""
    points, size, _ = matrices.shape

    turned = matrices.transpose(1, 2)

    def apply(vectors: Tensor) -> Tensor:
        # As rows: batches of matrix times column are 10 to 20 times slower in torch on CPUs.
        return torch.bmm(vectors[:, None], turned)[:, 0]

    def at(numbers: Tensor) -> Operator:
        return dense_operator(matrices[handed(numbers, matrices.device)])

    return Operator(apply, points, size, matrices.dtype, matrices.device, at)


def gram_operator(matrices: Tensor) -> Operator:
    """The maps v -> M M^T v, or v -> M^T M v where that is smaller, of matrices [P, n_out, n_in]."""
    points, rows, columns = matrices.shape
    outer, inner = (
        (matrices.transpose(1, 2), matrices) if columns < rows else (matrices, matrices.transpose(1, 2))
    )

    def apply(vectors: Tensor) -> Tensor:
        return torch.bmm(torch.bmm(vectors[:, None], outer), inner)[:, 0]

    def at(numbers: Tensor) -> Operator:
        return gram_operator(matrices[handed(numbers, matrices.device)])

    return Operator(apply, points, min(rows, columns), matrices.dtype, matrices.device, at)


def in_single(matrices: Tensor) -> tuple[Tensor, Tensor | None]:
    """Matrices in single precision, and what they are divided by, as their own range may be larger."""
    if matrices.dtype == torch.float32:
        return matrices, None
    scales = matrices.abs().amax((1, 2))
    scales = torch.where(scales.isfinite() & (scales > 0), scales, torch.ones_like(scales))
    return (matrices / scales[:, None, None]).float(), scales
