"""Local Jacobians of black boxes with too many elements to differentiate by: products with directions.

Differences give J v, never J^T w without all of J. Eigenvalues and the Frobenius norm of J are those of J^T:
radii come from Krylov spaces of the products, gains from random directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import jvp, vmap

from lsc_graph.errors import LimitExceededError
from lsc_graph.jacobians.cell import at_points, chosen_points, flatten
from lsc_graph.jacobians.probed import ProbedGain, probed_gain
from lsc_graph.layers.cells import DepthEdge, size
from lsc_graph.spectra.arnoldi import arnoldi_pairs
from lsc_graph.spectra.estimate import TOLERANCE, Estimate
from lsc_graph.spectra.operator import Operator
from lsc_graph.to_torch.loop import CellModule

PushAt = Callable[[Sequence[int], Tensor], Tensor]
# Points of one edge that are looked at: each takes hundreds of products.
_MAX_POINTS = 8
# Matrices of so few columns are built.
MAX_BUILT = 256
_MAX_BASIS, _MIN_BASIS, _MAX_RESTARTS = 80, 16, 4
# Residuals that are taken again tell more than Arnoldi's method does: it goes on for longer than it would.
_STOP = TOLERANCE / 2
MAX_BYTES = 2**31
"""What the Krylov bases of all points of one edge may take."""


@dataclass(frozen=True)
class Pushes:
    """The blocks d s[t_target, target] / d s[t_source, source] of one edge, as maps of directions.

    `push(numbers, directions)` maps [P, K, n_source] to [P, K, n_target] at the pairs of those numbers, in
    the type of `like`. `edge` is None for a layer's edge to itself, over time.
    """

    source: str
    target: str
    pairs: tuple[tuple[int, int], ...]
    shape: tuple[int, int]
    push: PushAt
    like: Tensor
    edge: DepthEdge | None = None

    @property
    def ends(self) -> tuple[str, str, tuple[tuple[int, int], ...]]:
        """Which derivatives these are."""
        return self.source, self.target, self.pairs

    def within(self, enter: Callable[[], AbstractContextManager[None]]) -> Pushes:
        """The same, pushed within what is entered for it."""

        def push(numbers: Sequence[int], directions: Tensor) -> Tensor:
            with enter():
                return self.push(numbers, directions)

        return replace(self, push=push)

    def sampled(self) -> list[int]:
        """Numbers of pairs spread over all of them."""
        count = min(len(self.pairs), _MAX_POINTS)
        return torch.linspace(0, len(self.pairs) - 1, count).round().int().tolist() if count else []

    def dense(self, numbers: Sequence[int]) -> Tensor | None:
        """The blocks [P, n_target, n_source] at some pairs, where these are narrow."""
        if self.shape[1] > MAX_BUILT:
            return None
        units = torch.eye(self.shape[1], dtype=self.like.dtype)
        return self.push(numbers, units.expand(len(numbers), -1, -1)).transpose(1, 2)

    def gain(self, numbers: Sequence[int], num_probes: int, generator: torch.Generator) -> ProbedGain:
        """||M||_F / (n_target n_source)^(1/4) at some pairs, by random directions."""

        def push(probes: Tensor) -> Tensor:
            return self.push(numbers, probes.to(self.like))

        return probed_gain(push, len(numbers), self.shape[::-1], num_probes, generator)

    def radius(self, numbers: Sequence[int], changed: Pushes | None) -> tuple[Estimate, Tensor]:
        """Spectral radii at some pairs, of square blocks, and how far error bars may move them [P].

        What differences are off by makes Arnoldi's method inexact. The residual of the vectors that it found
        is therefore taken again, by new products. To first order an eigenvalue moves by no more than its
        condition number times that, or times what a change of the matrix makes of its right eigenvector.

        Args:
            numbers: of the pairs.
            changed: the same, changed by as much as the error bars allow.
        """
        basis = self._basis(len(numbers))
        pairs = arnoldi_pairs(
            self._operator(numbers), tolerance=_STOP, max_basis=basis, max_restarts=_MAX_RESTARTS
        )
        estimate, again = pairs.estimate, self._of_complex(numbers, pairs.vectors)
        conditions, moduli = estimate.conditions, pairs.values.abs()
        residuals = (again - pairs.values[:, None] * pairs.vectors).norm(dim=1)
        lost = torch.where(residuals > 0, conditions * residuals / moduli, 0.0)
        moved = torch.zeros_like(residuals)
        if changed is not None:
            moved = (changed._of_complex(numbers, pairs.vectors) - again).norm(dim=1)
        bars = torch.where(moved > 0, moved * conditions, 0.0)
        return estimate.with_residuals(lost, bars), bars

    def _of_complex(self, numbers: Sequence[int], vectors: Tensor) -> Tensor:
        both = torch.stack([vectors.real, vectors.imag], 1).to(self.like)
        pushed = self.push(numbers, both).double().cpu()
        return torch.complex(pushed[:, 0], pushed[:, 1])

    def _basis(self, num_points: int) -> int:
        each = self.shape[0] * self.like.element_size() * max(1, num_points)
        basis = min(_MAX_BASIS, self.shape[0], MAX_BYTES // each)
        if basis < min(_MIN_BASIS, self.shape[0]):
            raise LimitExceededError(
                "A layer is too large for its spectral radius by products",
                where=self.target,
                got=f"{_MIN_BASIS * each / 2**30:,.1f} GiB for {_MIN_BASIS} vectors of {self.shape[0]:,} "
                f"elements at {num_points} points",
                expected=f"at most {MAX_BYTES / 2**30:,.1f} GiB",
                do="audit fewer --steps, a smaller batch or an export of smaller width",
            )
        return basis

    def _operator(self, numbers: Sequence[int]) -> Operator:
        def apply(vectors: Tensor) -> Tensor:
            return self.push(numbers, vectors[:, None])[:, 0]

        def at(chosen: Tensor) -> Operator:
            return self._operator([numbers[index] for index in chosen.tolist()])

        return Operator(apply, len(numbers), self.shape[0], self.like.dtype, self.like.device, at)


def push_reads(
    module: CellModule, points: Sequence[Tensor], which: Sequence[int], directions: Tensor
) -> Tensor:
    """Directions [P, K, n] of some of what a cell reads, pushed to its new state [P, K, n_out].

    Args:
        module: the cell.
        points: what it reads at P points, as of `cell_points`.
        which: numbers of what the directions are of, one after another.
        directions: as said.
    """
    shapes = [points[index].shape[1:] for index in which]
    sizes = [size(tuple(shape)) for shape in shapes]

    def push(rows: Tensor, *values: Tensor) -> Tensor:
        def function(*chosen: Tensor) -> Tensor:
            given = list(values)
            for index, value in zip(which, chosen, strict=True):
                given[index] = value
            return flatten(module(*given))

        def one(row: Tensor) -> Tensor:
            parts = [part.reshape(shape) for part, shape in zip(torch.split(row, sizes), shapes, strict=True)]
            moved: Tensor = jvp(function, tuple(values[index] for index in which), tuple(parts))[1]
            return moved

        return vmap(one)(rows)

    pushed: Tensor = at_points(push, points, directions)
    return pushed


def push_at(
    module: CellModule, points: Sequence[Tensor], which: Sequence[int], times: Sequence[int]
) -> PushAt:
    """Products with the derivative of a cell's new state by some of what it reads, at some of its points."""

    def push(numbers: Sequence[int], directions: Tensor) -> Tensor:
        here = chosen_points(points, torch.tensor([times[number] for number in numbers]))
        return push_reads(module, here, which, directions.to(points[which[0]]))

    return push
