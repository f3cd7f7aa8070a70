"""Batches of matrices with spectra of every kind that estimators meet, by name and size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NUM_POINTS = 3


def randn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def orthogonal(generator: torch.Generator, size: int) -> Tensor:
    return torch.linalg.qr(randn(generator, size, size))[0]


def gaussian(generator: torch.Generator, size: int) -> Tensor:
    """The circular law: a crowded edge."""
    return randn(generator, NUM_POINTS, size, size) / size**0.5


def rotations(generator: torch.Generator, size: int) -> Tensor:
    """All eigenvalues of one modulus."""
    scales = torch.tensor([0.5, 0.9, 1.1], dtype=torch.float64)
    return scales[:, None, None] * orthogonal(generator, size)


def gated(generator: torch.Generator, size: int) -> Tensor:
    """diag * W + diag, as gated cells have it."""
    gates = torch.sigmoid(randn(generator, NUM_POINTS, size))
    weights = torch.diag_embed(gates) @ orthogonal(generator, size)
    return 0.5 * weights + torch.diag_embed(0.9 * torch.sigmoid(randn(generator, NUM_POINTS, size) + 1))


def clustered(generator: torch.Generator, size: int) -> Tensor:
    """Real eigenvalues that crowd at 1, in a basis that is not orthogonal."""
    values = torch.rand(NUM_POINTS, size, generator=generator, dtype=torch.float64) ** 0.1
    basis = randn(generator, size, size) / size**0.5 + 2 * torch.eye(size)
    return basis @ torch.diag_embed(values) @ torch.linalg.inv(basis)


def outlier(generator: torch.Generator, size: int) -> Tensor:
    """One eigenvalue far outside: what training leaves."""
    left, right = randn(generator, NUM_POINTS, size, 1), randn(generator, NUM_POINTS, 1, size)
    return 0.5 * gaussian(generator, size) + 1.5 * left @ (left.transpose(1, 2) + 0.3 * right) / size


def transient(generator: torch.Generator, size: int) -> Tensor:
    """Strongly non-normal: powers grow a hundredfold before they decay."""
    values = torch.diag_embed(0.9 * torch.rand(NUM_POINTS, size, generator=generator, dtype=torch.float64))
    upper = torch.triu(randn(generator, NUM_POINTS, size, size), 1) * 0.15 / size**0.5
    basis = orthogonal(generator, size)
    return basis @ (values + upper) @ basis.T


SPECTRA: dict[str, Callable[[torch.Generator, int], Tensor]] = {
    own.__name__: own for own in (gaussian, rotations, gated, clustered, outlier, transient)
}


def batch(name: str, size: int, seed: int = 0) -> Tensor:
    """[3, size, size], float64."""
    return SPECTRA[name](torch.Generator().manual_seed(seed), size)
