"""What confirms or refutes estimates by Krylov spaces at some points, which vouch for those alike.

Far from normal matrices have approximate eigenvectors where no eigenvalue is, and no number of products below
their size tells them from others: eigenvectors on both sides do, where the eigenvalue is well conditioned, or
else high powers, either of which takes longer than everything else, powers of large matrices most of all. So
they are looked at for one point of each kind. What a map does to random vectors tells which are of one
kind: how far it lengthens them, and how far it leaves their direction, next to the radius that was found;
and which elements of some columns are there. Where the eigenvalue turns out to be badly conditioned, what is
too small to be seen decides over it: such a point vouches for itself alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lsc_graph.spectra.arnoldi import ILL_CONDITIONED
from lsc_graph.spectra.estimate import TOLERANCE, Estimate
from lsc_graph.spectra.handed import handed
from lsc_graph.spectra.operator import Operator
from lsc_graph.spectra.orbit import orbit_growth
from lsc_graph.spectra.powers import power_radius
from lsc_graph.spectra.witness import condition_at

# An eigenvalue that is resolved to this relative error stands alone: no slow transient looks like that.
_CERTAIN = 1e-5
# What is left of a direction, relative to the radius, may differ by so much between points of one kind; it is
# known to some 1 / sqrt(n).
_ALIKE = 0.3
# Of smaller matrices powers take less time than eigenvectors.
_LARGE = 768
_NUM_VECTORS = 4
# Columns that tell which elements there are, and what part of these may be there at one point alone.
_NUM_COLUMNS, _MAX_UNLIKE = 4, 0.25


def confirmed(
    estimate: Estimate,
    operator: Operator,
    matrix: Callable[[int], Tensor],
    tolerance: float = TOLERANCE,
) -> Estimate:
    """Estimates, if eigenvectors or powers bear out those of them that seem most doubtful.

    The one whose eigenvalue seems worst conditioned is looked at. Where some estimates are not resolved to
    the last digits, their eigenvalues may be none: one point of each kind of these is looked at, and slow
    transients are waited for there, unless its eigenvectors tell.

    Args:
        estimate: at all points.
        operator: the matrices, or their transposes, as products.
        matrix: the matrix [n, n] at a point.
        tolerance: relative error that counts as converged.

    Returns:
        The same, or without any point converged.
    """
    doubtful = estimate.converged & (estimate.errors > _CERTAIN)
    is_any = bool(doubtful.any())
    worst = _worst_conditioned(estimate, doubtful if is_any else estimate.converged)
    looks = _Looks.at(estimate, operator) if is_any else None
    while looks is not None and bool(doubtful.any()):
        # The further the radius is above what random vectors grow by, the less of a matrix it stands for.
        point = int(torch.where(doubtful, looks.above, -torch.inf).argmax())
        found = _borne_out(estimate, point, matrix(point), tolerance, is_long=True)
        if found is None:
            return estimate.refuted()
        estimate = found.estimate
        doubtful[point] = False
        if found.condition <= ILL_CONDITIONED:
            doubtful &= ~looks.like(point)
        worst = [own for own in worst if own != point]
    for point in worst:
        found = _borne_out(estimate, point, matrix(point), tolerance, is_long=False)
        if found is None:
            return estimate.refuted()
        estimate = found.estimate
    return estimate


def unless_refuted(
    estimate: Estimate,
    operator: Operator,
    matrix: Callable[[int], Tensor],
    tolerance: float = TOLERANCE,
) -> Estimate:
    """Estimates of one method alone, without any point converged where powers do not bear them out.

    Args:
        estimate, operator, matrix, tolerance: as of `confirmed`.
    """
    checked = confirmed(estimate, operator, matrix, tolerance)
    return estimate if bool(checked.converged.any()) else checked


def _worst_conditioned(estimate: Estimate, among: Tensor) -> list[int]:
    return [int(torch.where(among, estimate.conditions, -1.0).argmax())] if bool(among.any()) else []


class _BorneOut(NamedTuple):
    """Estimates, and the condition number of the eigenvalue at the point that was looked at."""

    estimate: Estimate
    condition: float


def _borne_out(
    estimate: Estimate, point: int, own: Tensor, tolerance: float, *, is_long: bool
) -> _BorneOut | None:
    """Estimates, the one of a point by its powers where these know better; None if nothing bears it out."""
    given, error = float(estimate.values[point]), float(estimate.errors[point])
    if len(own) >= _LARGE:
        condition = condition_at(own, given, error + tolerance / 2)
        if condition is not None:
            return _BorneOut(estimate, condition)
    growth = orbit_growth(own, is_long=is_long)
    excess = growth.excess if is_long else 0.0
    if abs(growth.rate - given) <= (error + tolerance / 2 - excess) * given:
        return _BorneOut(estimate, growth.condition)
    other = power_radius(own[None], tolerance=tolerance, is_long=is_long)
    allowed = (float(other.errors) + error + tolerance) * float(other.values)
    if not (bool(other.converged) and abs(float(other.values) - given) <= allowed):
        return None
    return _BorneOut(estimate.where_better(torch.tensor([point]), other), float(other.conditions))


@dataclass(frozen=True)
class _Looks:
    """What tells kinds of points apart.

    By how much the logarithms of radii [P] exceed that of random vectors' growth, and what is left of the
    vectors' direction, over the radius; points that it is not known of look like no others. And which
    elements of some columns (or rows, of transposed matrices) are there [P, K, n].
    """

    above: Tensor
    kept: Tensor
    filled: Tensor

    @staticmethod
    def at(estimate: Estimate, operator: Operator) -> _Looks:
        """By a few products at all points."""
        generator = torch.Generator().manual_seed(1)
        lengths, overlaps = [], []
        for _ in range(_NUM_VECTORS):
            vector = torch.randn(1, operator.size, dtype=torch.float64, generator=generator)
            vector = handed(vector / vector.norm(), operator.device, operator.dtype)
            moved = operator.apply(vector.expand(operator.num_points, -1))
            largest = moved.abs().amax(1).double()
            unit = (
                moved.double() / largest[:, None]
            )  # squares of huge or tiny elements leave the range of floats
            lengths.append(unit.square().sum(1).sqrt() * largest)
            overlaps.append((unit * vector.double()).sum(1) * largest)
        growth, overlap = torch.stack([torch.stack(own).mean(0) for own in (lengths, overlaps)]).cpu()
        above = (estimate.values / growth).log().nan_to_num(torch.inf, torch.inf)
        return _Looks(above, overlap / estimate.values, _filled(operator).cpu())

    def like(self, point: int) -> Tensor:
        """Which points one of them vouches for."""
        is_near = (self.above <= self.above[point]) & ((self.kept - self.kept[point]).abs() <= _ALIKE)
        own = self.filled[point]
        # Units that are off at either point, as those of ReLU are, tell nothing.
        both = (own.any(0) & self.filled.any(1))[:, None] & (own.any(1) & self.filled.any(2))[:, :, None]
        unlike, there = (
            (both & found).sum((1, 2)).double() for found in (self.filled ^ own, self.filled | own)
        )
        return is_near & (unlike <= _MAX_UNLIKE * there) & (there > 0)


def _filled(operator: Operator) -> Tensor:
    columns = torch.linspace(0, operator.size - 1, min(_NUM_COLUMNS, operator.size)).long()
    vectors = torch.zeros(len(columns), operator.size, dtype=torch.float64)
    vectors[torch.arange(len(columns)), columns] = 1
    vectors = handed(vectors, operator.device, operator.dtype)
    return torch.stack([operator.apply(own.expand(operator.num_points, -1)) != 0 for own in vectors], 1)
