"""Gains of matrices that are known by what they do to cotangents, by as many of these as it takes.

Few random cotangents tell a gain well where many singular values share it. Where few rows or few singular
values make it up, as those of a mean over units, they would be off by tenths of it: what they have found is
then multiplied exactly, and only what is left is left to chance (R. A. Meyer, C. Musco, C. Musco and D. P.
Woodruff, "Hutch++: Optimal stochastic trace estimation", SOSA 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vjp

from lsc_graph.errors import AnalysisError

# Cotangents that are pulled back at most; with that many rows or fewer, unit vectors give the exact gain. So
# they do with more rows where there are so few points that their noise would not average out.
_MOST, _MOST_AT_FEW, _FEW_POINTS = 256, 1024, 32
# Relative error of a gain that is good enough, and one from which on all unit vectors are worth it.
ENOUGH, _FEW_VALUES = 0.01, 0.03
# What a product with the matrix and one with its transpose may differ by, where both are right.
_AGREES = 1e-3

# Elements of cotangents that are held together.
_MAX_ELEMENTS = 2**22

Pull = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ProbedGain:
    """Gains [P], float64 on the CPU, and their relative standard errors [P]; 0 where they are exact."""

    values: Tensor
    errors: Tensor

    @staticmethod
    def joined(parts: Sequence[ProbedGain]) -> ProbedGain:
        """Those of several groups of points, one after another."""
        return ProbedGain(torch.cat([own.values for own in parts]), torch.cat([own.errors for own in parts]))


def point_groups(numbers: Sequence[int], shape: tuple[int, int], num_probes: int) -> list[list[int]]:
    """Points of matrices [n_out, n_in] in groups whose cotangents are held together."""
    size = max(1, _MAX_ELEMENTS // (num_probes * max(shape)))
    return [list(numbers[start : start + size]) for start in range(0, len(numbers), size)]


def probed_gain(
    pull: Pull,
    num_points: int,
    shape: tuple[int, int],
    num_probes: int,
    generator: torch.Generator,
) -> ProbedGain:
    """||M||_F / (n_out n_in)^(1/4) at P points.

    By Hutchinson's estimator, E ||M^T v||^2 = ||M||_F^2 for standard normal v; where the first probes
    scatter too much, by more of what is left beside the space that these span, or by all unit vectors.

    Args:
        pull: M^T v [P, K, n_in] for cotangents v [P, K, n_out] (float64), in any type on any device.
        num_points: P.
        shape: (n_out, n_in).
        num_probes: how many to begin with.
        generator: of the probes.
    """
    rows = shape[0]
    if rows <= num_probes:
        return _exact(_squares(pull(_units(num_points, 0, rows, rows))).cpu(), shape)
    probes = torch.randn(num_points, num_probes, rows, generator=generator, dtype=torch.float64)
    first = pull(probes)
    squares = _squares(first).cpu()
    errors = _errors(squares)
    if bool((errors <= ENOUGH).all()):
        return ProbedGain(_scaled(squares.mean(1), shape), errors)
    is_cheap = rows <= (_MOST_AT_FEW if num_points <= _FEW_POINTS else _MOST)
    if is_cheap and bool((errors > _FEW_VALUES).any()):
        starts = range(0, rows, num_probes)
        exact = [
            _squares(pull(_units(num_points, start, min(rows, start + num_probes), rows))) for start in starts
        ]
        return _exact(torch.cat(exact, 1).cpu(), shape)
    return _completed(pull, probes, first, shape, generator)


def _completed(
    pull: Pull, probes: Tensor, first: Tensor, shape: tuple[int, int], generator: torch.Generator
) -> ProbedGain:
    """With more probes, until they tell the gain or are too many."""
    num_points, num_probes, rows = probes.shape
    known = _multiplied(pull, probes, first)
    found = [] if known is not None else [_squares(first).cpu()]
    head = known[1] if known is not None else torch.zeros(num_points, dtype=torch.float64)
    for _ in range(1, _MOST // num_probes):
        own = pull(torch.randn(num_points, num_probes, rows, generator=generator, dtype=torch.float64))
        squares = _squares(own)
        if known is not None:
            squares = (squares - _squares(own @ known[0])).clamp_min(0)
        found.append(squares.cpu())
        joined = torch.cat(found, 1)
        errors = _errors(joined, head)
        if bool((errors <= ENOUGH).all()):
            break
    return ProbedGain(_scaled(head + joined.mean(1), shape), errors)


def _multiplied(pull: Pull, probes: Tensor, first: Tensor) -> tuple[Tensor, Tensor] | None:
    """An orthonormal basis [P, n_in, K] of what the first probes were pulled back to, and ||M Q||_F^2 [P].

    None where the products with M, which are the transpose of the pull, do not exist or are not right.
    """
    basis = torch.linalg.qr(first.transpose(1, 2)).Q
    try:
        _, push, *_ = vjp(pull, torch.zeros_like(probes, dtype=first.dtype))
        (pushed,) = push(basis.transpose(1, 2))
    except (RuntimeError, NotImplementedError, AnalysisError):
        return None
    pushed = pushed.cpu()
    ours, theirs = probes.to(pushed) @ pushed.transpose(1, 2), (first @ basis).cpu()
    off = torch.linalg.matrix_norm(ours - theirs)
    if not bool((off <= _AGREES * torch.linalg.matrix_norm(theirs)).all()):
        return None
    return basis, _squares(pushed).sum(1)


def _squares(pulled: Tensor) -> Tensor:
    """||M^T v||^2 [P, K]."""
    found: Tensor = torch.linalg.vector_norm(pulled, dim=2, dtype=torch.float64).square()
    return found


def _units(num_points: int, start: int, end: int, rows: int) -> Tensor:
    """Unit vectors [P, end - start, rows], the same at every point."""
    units = torch.zeros(end - start, rows, dtype=torch.float64)
    units[torch.arange(end - start), torch.arange(start, end)] = 1
    return units.expand(num_points, -1, -1)


def _errors(squares: Tensor, head: Tensor | float = 0.0) -> Tensor:
    """Relative standard errors of gains: half of those of their squares, `head` beside the mean of probes."""
    total = head + squares.mean(1)
    errors = squares.std(1) / squares.shape[1] ** 0.5 / (2 * total)
    return torch.where(total > 0, errors, 0.0)


def _exact(squares: Tensor, shape: tuple[int, int]) -> ProbedGain:
    return ProbedGain(_scaled(squares.sum(1), shape), torch.zeros(len(squares), dtype=torch.float64))


def _scaled(squared_norms: Tensor, shape: tuple[int, int]) -> Tensor:
    rows, columns = shape
    gains: Tensor = (squared_norms.double() / (rows * columns) ** 0.5).sqrt()
    return gains
