"""What confirms or refutes estimates by Krylov spaces at some points, which vouch for those alike.

Far from normal matrices have approximate eigenvectors where no eigenvalue is, and no number of products below
their size tells them from others: eigenvectors on both sides do, where the eigenvalue is well conditioned, or
else high powers, either of which takes longer than everything else, powers of large matrices most of all. So
they are looked at for one point of each kind. What a map does to random vectors tells which are of one
kind: how far it lengthens them, and how far it leaves their direction, next to the radius that was found.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lsc_graph.spectra.estimate import TOLERANCE, Estimate
from lsc_graph.spectra.handed import handed
from lsc_graph.spectra.operator import Operator
from lsc_graph.spectra.orbit import orbit_growth
from lsc_graph.spectra.powers import power_radius
from lsc_graph.spectra.witness import has_eigenvalue

# An eigenvalue that is resolved to this relative error stands alone: no slow transient looks like that.
_CERTAIN = 1e-5
# What is left of a direction, relative to the radius, may differ by so much between points of one kind; it is
# known to some 1 / sqrt(n).
_ALIKE = 0.3
# Of smaller matrices powers take less time than eigenvectors.
_LARGE = 768
_NUM_VECTORS = 4


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
    patient = _one_of_each_kind(estimate, operator, doubtful) if is_any else []
    worst = _worst_conditioned(estimate, doubtful if is_any else estimate.converged)
    for point in (*patient, *(own for own in worst if own not in patient)):
        found = _borne_out(estimate, point, matrix(point), tolerance, is_long=point in patient)
        if found is None:
            return estimate.refuted()
        estimate = found
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


def _borne_out(
    estimate: Estimate, point: int, own: Tensor, tolerance: float, *, is_long: bool
) -> Estimate | None:
    """Estimates, the one of a point by its powers where these know better; None if nothing bears it out."""
    given, error = float(estimate.values[point]), float(estimate.errors[point])
    if len(own) >= _LARGE and has_eigenvalue(own, given, error + tolerance / 2):
        return estimate
    if abs(orbit_growth(own, is_long=is_long) - given) <= (error + tolerance / 2) * given:
        return estimate
    other = power_radius(own[None], tolerance=tolerance, is_long=is_long)
    allowed = (float(other.errors) + error + tolerance) * float(other.values)
    agrees = bool(other.converged) and abs(float(other.values) - given) <= allowed
    return estimate.where_better(torch.tensor([point]), other) if agrees else None


def _one_of_each_kind(estimate: Estimate, operator: Operator, among: Tensor) -> list[int]:
    """Numbers of points that vouch for all: the most suspicious of each kind.

    The further the radius is above what random vectors grow by, the less of a matrix it stands for.
    """
    above, kept = _looks(estimate, operator)
    chosen, left = list[int](), among.clone()
    while bool(left.any()):
        point = int(torch.where(left, above, -torch.inf).argmax())
        chosen.append(point)
        left &= ~_like(above, kept, point)
        left[point] = False
    return chosen


def _like(above: Tensor, kept: Tensor, point: int) -> Tensor:
    """Which points one of them vouches for."""
    return (above <= above[point]) & ((kept - kept[point]).abs() <= _ALIKE)


def _looks(estimate: Estimate, operator: Operator) -> tuple[Tensor, Tensor]:
    """By how much the logarithms of radii [P] exceed that of random vectors' growth, and what is left of the
    vectors' direction, over the radius; points that it is not known of look like no others."""
    generator = torch.Generator().manual_seed(1)
    lengths, overlaps = [], []
    for _ in range(_NUM_VECTORS):
        vector = torch.randn(1, operator.size, dtype=torch.float64, generator=generator)
        vector = handed(vector / vector.norm(), operator.device, operator.dtype)
        moved = operator.apply(vector.expand(operator.num_points, -1))
        largest = moved.abs().amax(1).double()
        unit = moved.double() / largest[:, None]  # squares of huge or tiny elements leave the range of floats
        lengths.append(unit.square().sum(1).sqrt() * largest)
        overlaps.append((unit * vector.double()).sum(1) * largest)
    growth, overlap = torch.stack([torch.stack(own).mean(0) for own in (lengths, overlaps)]).cpu()
    above = (estimate.values / growth).log().nan_to_num(torch.inf, torch.inf)
    return above, overlap / estimate.values
