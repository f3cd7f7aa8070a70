"""Batches of matrices with spectra of every kind that estimators meet, by name and size."""

from __future__ import annotations

import math
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


def _shift(size: int, step: int = 1) -> Tensor:
    return torch.diag(torch.ones(size - step, dtype=torch.float64), step)


def _jordan(size: int, value: float, length: int) -> Tensor:
    """Jordan blocks of one length (the last one may be shorter)."""
    ones = (torch.arange(1, size) % length != 0).double()
    return value * torch.eye(size, dtype=torch.float64) + torch.diag(ones, 1)


def _turned(matrix: Tensor, seed: int = 7) -> Tensor:
    """The same in another orthonormal basis."""
    basis = orthogonal(torch.Generator().manual_seed(seed), len(matrix))
    return basis @ matrix @ basis.T


def _kahan(size: int) -> Tensor:
    sine, cosine = math.sin(1.2), math.cos(1.2)
    scales = torch.pow(torch.tensor(sine, dtype=torch.float64), torch.arange(size))
    return torch.diag(scales) @ (
        torch.eye(size, dtype=torch.float64)
        - cosine * torch.triu(torch.ones(size, size, dtype=torch.float64), 1)
    )


def _companion(size: int) -> Tensor:
    """Of x^n = 0.97^n: n eigenvalues of one modulus, in a badly scaled basis."""
    matrix = _shift(size).T.clone()
    matrix[0, -1] = 0.97**size
    return matrix


def _upper(size: int, strength: float) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    values = 0.9 * torch.rand(size, generator=generator, dtype=torch.float64)
    values[0] = 0.9
    return torch.diag(values) + strength * torch.triu(randn(generator, size, size), 1) / size**0.5


def _pairs(size: int) -> Tensor:
    """Complex pairs, a third of them of the largest modulus."""
    angles = math.pi * torch.rand(size // 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    blocks = [
        (0.8 if number % 3 == 0 else 0.79)
        * torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]], dtype=torch.float64)
        for number, a in enumerate(angles.tolist())
    ]
    return torch.block_diag(*blocks, *[torch.zeros(1, 1, dtype=torch.float64)] * (size % 2))


def _skewed(matrix: Tensor, condition: float) -> Tensor:
    """The same in a basis of that condition number."""
    size = len(matrix)
    left, right = (orthogonal(torch.Generator().manual_seed(seed), size) for seed in (3, 4))
    basis = left @ torch.diag(torch.logspace(0, math.log10(condition), size, dtype=torch.float64)) @ right
    return basis @ matrix @ torch.linalg.inv(basis)


def _legs(size: int) -> Tensor:
    """HiPPO-LegS, discretised: triangular and strongly non-normal, as state-space layers start from."""
    index = torch.arange(size, dtype=torch.float64)
    roots = (2 * index + 1).sqrt()
    step = 0.005 * (-torch.tril(roots[:, None] * roots, -1) - torch.diag(index + 1))
    one = torch.eye(size, dtype=torch.float64)
    return torch.linalg.solve(one - step, one + step)


def _leaky(size: int, leak: float) -> Tensor:
    """Units that each follow the one before: powers decay only after as many steps as units over the leak."""
    return (1 - leak) * torch.eye(size, dtype=torch.float64) + leak * _shift(size)


def _defective_edge(size: int) -> Tensor:
    rest = 0.7 * torch.rand(size - 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return _turned(torch.block_diag(_jordan(2, 0.9, 2), torch.diag(rest)))


HARD: dict[str, tuple[Callable[[int], Tensor], float]] = {
    "jordan": (lambda size: _jordan(size, 0.9, size), 0.9),
    "jordan, turned": (lambda size: _turned(_jordan(size, 0.9, size)), 0.9),
    "jordan of 4, turned": (lambda size: _turned(_jordan(size, 0.9, 4)), 0.9),
    "leaky cascade": (lambda size: _leaky(size, 0.05), 0.95),
    "slow leaky cascade": (lambda size: _leaky(size, 0.02), 0.98),
    "leaky cascade among others": (
        lambda size: torch.block_diag(_leaky(size - size // 2, 0.1), 0.5 * _pairs(size // 2)),
        0.9,
    ),
    "defective edge": (_defective_edge, 0.9),
    "kahan, turned": (lambda size: _turned(_kahan(size)), 1.0),
    "companion": (_companion, 0.97),
    "nilpotent": (_shift, 0.0),
    "nilpotent, turned": (lambda size: _turned(_shift(size)), 0.0),
    "zero": (lambda size: torch.zeros(size, size, dtype=torch.float64), 0.0),
    "cyclic": (lambda size: _shift(size) + _shift(size, size - 1).T, 1.0),
    "permutation": (lambda size: torch.eye(size, dtype=torch.float64)[torch.arange(size).flip(0)], 1.0),
    "pairs": (lambda size: _turned(_pairs(size)), 0.8),
    "pairs, skewed": (lambda size: _skewed(_pairs(size), 10), 0.8),
    "pairs, very skewed": (lambda size: _skewed(_pairs(size), 1e5), 0.8),
    "triangular": (lambda size: _turned(_upper(size, 1)), 0.9),
    "triangular, strong": (lambda size: _turned(_upper(size, 100)), 0.9),
    "legs": (_legs, 0.995 / 1.005),
    "tiny": (lambda size: 1e-30 * _turned(_pairs(size)), 0.8e-30),
    "huge": (lambda size: 1e30 * _turned(_pairs(size)), 0.8e30),
}
"""Matrices that estimators are wrong about if they can be, by size, with their exact spectral radius."""
