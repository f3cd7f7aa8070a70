"""Spectral radii of a cell's time Jacobians, of which as little is built as the cell allows.

Unit blocks where units do not meet; dense matrices while these are small; beyond that Krylov iteration on
vector-Jacobian products of all steps at once, and dense matrices of the points where it did not converge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.func import vjp

from lsc_graph.jacobians.blocks import unit_blocks
from lsc_graph.jacobians.built import BuiltJacobians
from lsc_graph.jacobians.cell import (
    at_points,
    batched_jacobians,
    cell_points,
    chosen_points,
    flat_from,
    flatten,
)
from lsc_graph.jacobians.gated import GatedJacobians, gated_jacobians
from lsc_graph.spectra.arnoldi import arnoldi_radius
from lsc_graph.spectra.choose import (
    cascade,
    completed,
    group_size,
    radius_estimate,
)
from lsc_graph.spectra.confirming import confirmed, unless_refuted
from lsc_graph.spectra.estimate import TOLERANCE, Estimate, Method
from lsc_graph.spectra.krylov_powers import krylov_power_radius
from lsc_graph.spectra.operator import Operator, dense_operator
from lsc_graph.to_torch.loop import CellModule, Trajectory

# From this state size on, finding a gated form takes less time than it saves; benchmarks/radii.py.
GATED_FROM = 96
_MAX_RESTARTS = 8
# As many elements of dense matrices as one of the weights are multiplied in the same time.
_WEIGHT = 2
# Beyond this size no matrix is built: what has not converged is shown as such.
MAX_DENSE = 4096
# Elements of the matrices that products by pulls are given up for.
_MAX_BUILT = 2**24


def time_radii(
    module: CellModule,
    trajectory: Trajectory,
    generator: torch.Generator,
    method: Method = Method.AUTO,
    *,
    tolerance: float = TOLERANCE,
) -> Estimate:
    """Spectral radii of M_time at every step of a trajectory [T].

    Args:
        module: the cell.
        trajectory: where.
        generator: of the probes that verify a structure found in the graph.
        method: the estimator; on the CPU ARNOLDI and, for large states, AUTO work on products, and build one
            matrix whose powers bear out what these found, up to a state size of `MAX_DENSE`. Off the CPU all
            matrices are built up to that size, so that the host need not wait for which one.
        tolerance: relative error that counts as converged.
    """
    blocks = unit_blocks(module, trajectory, generator) if method is Method.AUTO else None
    if blocks is not None:
        return blocks.radius(tolerance)
    points = cell_points(module, trajectory)
    is_large = module.cell.layer.state_size >= GATED_FROM
    gated = gated_jacobians(module, points, own_reads(module), generator) if is_large else None
    return point_radii(module, points, gated, method, tolerance=tolerance)


def point_radii(
    module: CellModule,
    points: Sequence[Tensor],
    gated: GatedJacobians | BuiltJacobians | None,
    method: Method = Method.AUTO,
    *,
    tolerance: float = TOLERANCE,
) -> Estimate:
    """Spectral radii of M_time at some points [P], of which as little is built as the method allows.

    Args:
        module: the cell.
        points: what it reads, as of `cell_points`.
        gated: the same matrices in a cheaper form, if there is one.
        method, tolerance: as of `time_radii`.
    """
    size = module.cell.layer.state_size

    def dense(numbers: Tensor) -> Tensor:
        return _dense(module, chosen_points(points, numbers)) if gated is None else gated.at(numbers).dense()

    def at(point: int) -> Tensor:
        return dense(torch.tensor([point]))[0]

    device = points[0].device.type
    is_auto = method is Method.AUTO and size <= MAX_DENSE
    is_dense_first = is_auto and cascade(size, device)[0] is not Method.ARNOLDI
    is_dense_first |= size <= MAX_DENSE and device != "cpu"
    if is_dense_first or method not in (Method.AUTO, Method.ARNOLDI):
        groups = torch.split(torch.arange(points[0].shape[0]), group_size(size, device))
        return Estimate.joined([radius_estimate(dense(own), method, tolerance=tolerance) for own in groups])
    operator = pull_operator(module, points) if gated is None else _gated_operator(gated)
    if device != "cpu":
        return krylov_power_radius(operator, tolerance=tolerance)
    if gated is None and size <= MAX_DENSE:
        operator = _Sparing(operator, dense, torch.arange(operator.num_points)).as_operator()
    if not is_auto:
        found = arnoldi_radius(operator, tolerance=tolerance, max_restarts=_MAX_RESTARTS)
        return unless_refuted(found, operator, at, tolerance) if size <= MAX_DENSE else found
    found = confirmed(krylov_power_radius(operator, tolerance=tolerance), operator, at, tolerance)
    return completed(found, size, dense, tolerance)


def _gated_operator(gated: GatedJacobians | BuiltJacobians) -> Operator:
    """Products with the weights, or with the matrices where all weights are not much smaller."""
    if isinstance(gated, BuiltJacobians):
        return gated.operator()
    in_weights = sum(weight.numel() for weight in gated.weights)
    is_small = gated.num_points * gated.size**2 < _WEIGHT * in_weights
    return dense_operator(gated.dense()) if is_small else gated.operator()


class _Sparing:
    """Products by pulls, until these have taken about as long as it takes to build the matrices.

    Pulling back all unit vectors together takes less than as many pulls of single ones, some of which, as
    through permutations, are slow.
    """

    def __init__(
        self, operator: Operator, build: Callable[[Tensor], Tensor], numbers: Tensor, count: int = 0
    ) -> None:
        self._by_pulls, self._build, self._numbers, self._count = operator, build, numbers, count
        self._by_matrices: Operator | None = None

    def as_operator(self) -> Operator:
        return replace(self._by_pulls, apply=self._apply, at=self._at)

    def _apply(self, vectors: Tensor) -> Tensor:
        self._count += 1
        size, own = self._by_pulls.size, self._by_matrices
        is_worth_it = 2 * self._count > size and len(self._numbers) * size**2 <= _MAX_BUILT
        if own is None and is_worth_it:
            own = self._by_matrices = dense_operator(self._build(self._numbers).transpose(1, 2))
        return (own or self._by_pulls).apply(vectors)

    def _at(self, numbers: Tensor) -> Operator:
        if self._by_matrices is not None:
            return self._by_matrices.at(numbers)
        chosen = self._numbers[numbers]
        return _Sparing(self._by_pulls.at(numbers), self._build, chosen, self._count).as_operator()


def own_reads(module: CellModule) -> list[int]:
    """Where a cell reads its own old states."""
    names = [("before", state.name) for state in module.cell.layer.states]
    return [module.reads.index(name) for name in names]


def _dense(module: CellModule, points: Sequence[Tensor]) -> Tensor:
    """M_time at some points [P, n, n]."""
    found = batched_jacobians(lambda *values: flatten(module(*values)), points, own_reads(module))
    return torch.cat([flat_from(block, 2) for block in found], 2)


def pull_operator(module: CellModule, points: Sequence[Tensor]) -> Operator:
    """Products of M_time^T with vectors [P, n] at P points; the cells are run forward once."""
    own = own_reads(module)
    states = [points[index] for index in own]

    def step(*values: Tensor) -> Tensor:
        return flatten(module(*values))

    def function(*chosen: Tensor) -> Tensor:
        given = list(points)
        for index, value in zip(own, chosen, strict=True):
            given[index] = value
        stepped: Tensor = at_points(step, given)
        return stepped

    _, pullback, *_ = vjp(function, *states)

    def apply(vectors: Tensor) -> Tensor:
        return torch.cat([flat_from(part, 1) for part in pullback(vectors)], 1)

    def at(numbers: Tensor) -> Operator:
        return pull_operator(module, chosen_points(points, numbers))

    like = states[0]
    return Operator(apply, like.shape[0], module.cell.layer.state_size, like.dtype, like.device, at)
