"""Which estimator takes a batch of matrices: by name, or by size and device as measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lsc_graph.errors import UsageError
from lsc_graph.running.deadline import in_time
from lsc_graph.spectra.arnoldi import ILL_CONDITIONED, MAX_BASIS, arnoldi_radius
from lsc_graph.spectra.arnoldi_once import arnoldi_once
from lsc_graph.spectra.confirming import confirmed, unless_refuted
from lsc_graph.spectra.dense import dense_radius
from lsc_graph.spectra.estimate import TOLERANCE, Estimate, Method
from lsc_graph.spectra.handed import handed
from lsc_graph.spectra.krylov_powers import krylov_power_radius
from lsc_graph.spectra.operator import dense_operator, in_single
from lsc_graph.spectra.powers import power_radius
from lsc_graph.spectra.squaring import squaring_radius

# Sizes from which each method is the fastest one, as benchmarks/radii.py and benchmarks/gpu.py measure. On
# CUDA, Arnoldi's method is at no size.
SQUARING_FROM = {"cpu": 48, "cuda": 20}
POWERS_FROM = {"cpu": 136, "cuda": 1400}
ARNOLDI_FROM = {"cpu": 224}
MAX_BATCH_BYTES = 512 * 2**20
# Powers of a badly conditioned matrix are rounding errors.
_BY_POWERS = (Method.SQUARING, Method.POWERS)
# Matrices that are built at once: so many bytes of them, or so many where these are large. Off the CPU the
# host waits for every group.
_GROUP_BYTES, _MIN_GROUP = {"cpu": 2**21, "cuda": 2**27}, 4


def group_size(size: int, device: str) -> int:
    """How many matrices are built at once on a type of device, where they need not all be."""
    return max(_MIN_GROUP, _GROUP_BYTES[_kind(device)] // (4 * size**2))


def _kind(device: str) -> str:
    """Of the sizes measured on two types of devices, those that hold on this one."""
    return "cpu" if device == "cpu" else "cuda"


def method_of(name: str) -> Method:
    """A method by its name.

    Raises:
        UsageError: there is none of that name.
    """
    names = [method.value for method in Method if method is not Method.BLOCKS]
    if name not in names:
        raise UsageError("There is no such estimator of spectral radii", got=name, expected=", ".join(names))
    return Method(name)


def radius_estimate(
    matrices: Tensor,
    method: Method = Method.AUTO,
    *,
    tolerance: float = TOLERANCE,
) -> Estimate:
    """Spectral radii of square matrices [P, n, n], each with its error and outcome.

    AUTO takes the fastest method for the size and device, and goes on to slower ones at the points where
    that did not converge, to dense eigenvalues in the end.

    Args:
        matrices: the batch, on any device.
        method: AUTO, or one method for all points.
        tolerance: relative error that counts as converged.
    """
    if not matrices.numel():
        return Estimate.empty()
    size = max(1, MAX_BATCH_BYTES // (matrices[0].numel() * 16))
    parts = [_batch(own, method, tolerance) for own in torch.split(matrices, size)]
    return Estimate.joined(parts)


def _batch(matrices: Tensor, method: Method, tolerance: float) -> Estimate:
    in_time()
    if method is Method.AUTO:
        return _auto(matrices, tolerance)
    return _by_name(matrices, method, tolerance)


def _by_name(matrices: Tensor, method: Method, tolerance: float) -> Estimate:
    if method is Method.DENSE:
        return dense_radius(matrices, tolerance=tolerance)
    if method is Method.SQUARING:
        return squaring_radius(matrices, tolerance=tolerance)
    if method is Method.POWERS:
        return _powers(matrices, tolerance)
    if matrices.device.type != "cpu":
        return arnoldi_once(matrices, tolerance=tolerance)
    unit, scales = in_single(matrices)
    operator = dense_operator(unit)
    found = arnoldi_radius(operator, tolerance=tolerance, max_basis=_basis(unit.shape[-1]))
    # A vector with next to nothing along the dominant eigenvector sees another eigenvalue: seldom do two.
    found = found.unless_contradicted(krylov_power_radius(operator, tolerance=tolerance, seed=1), tolerance)
    found = unless_refuted(found, operator, lambda point: unit[point], tolerance)
    return found if scales is None else found.scaled(scales)


def _powers(matrices: Tensor, tolerance: float, *, is_long: bool = False) -> Estimate:
    """Checked at some points; or high powers of all, as where squaring takes less time than another wait."""
    if is_long or matrices.device.type != "cpu":
        return power_radius(matrices, tolerance=tolerance, is_long=True)
    unit, scales = in_single(matrices)
    found = power_radius(unit, tolerance=tolerance)
    found = unless_refuted(found, dense_operator(unit), lambda point: unit[point], tolerance)
    return found if scales is None else found.scaled(scales)


def _basis(size: int) -> int:
    return max(min(size, 64), min(MAX_BASIS, size // 3))


def cascade(size: int, device: str) -> tuple[Method, ...]:
    """The methods that AUTO tries in turn."""

    def is_from(sizes: dict[str, int]) -> bool:
        return size >= sizes.get(_kind(device), math.inf)

    if is_from(ARNOLDI_FROM):
        return Method.ARNOLDI, Method.POWERS, Method.DENSE
    if is_from(POWERS_FROM):
        return Method.POWERS, Method.DENSE
    if is_from(SQUARING_FROM):
        return Method.SQUARING, Method.DENSE
    return (Method.DENSE,)


def takes_points_alone(size: int, device: str) -> bool:
    """Whether what AUTO finds at one point does not depend on which others are in a batch."""
    return device == "cpu" and set(cascade(size, device)) <= {Method.SQUARING, Method.DENSE}


def _auto(matrices: Tensor, tolerance: float) -> Estimate:
    first, *others = cascade(matrices.shape[-1], matrices.device.type)
    if first is not Method.ARNOLDI:
        return _by_others(_by_name(matrices, first, tolerance), matrices, others, tolerance)
    unit, scales = in_single(matrices)
    operator = dense_operator(unit)
    found = krylov_power_radius(operator, tolerance=tolerance)
    found = confirmed(found, operator, lambda point: unit[point], tolerance)
    found = found if scales is None else found.scaled(scales)
    return completed(
        found, matrices.shape[-1], lambda points: matrices[handed(points, matrices.device)], tolerance
    )


def completed(
    estimate: Estimate, size: int, matrices: Callable[[Tensor], Tensor], tolerance: float = TOLERANCE
) -> Estimate:
    """Estimates by Arnoldi's method on the CPU, and by slower ones where that did not converge.

    Args:
        estimate: at all points.
        size: of the matrices.
        matrices: those at some of the points, by their numbers.
        tolerance: relative error that counts as converged.
    """
    rest = (~estimate.converged).nonzero()[:, 0]
    if not len(rest):
        return estimate
    others = [Method.POWERS, Method.DENSE]
    found = [
        _by_others(estimate.at(own), matrices(own), others, tolerance)
        for own in torch.split(rest, group_size(size, "cpu"))
    ]
    return estimate.where_better(rest, Estimate.joined(found))


def _by_others(estimate: Estimate, matrices: Tensor, methods: Sequence[Method], tolerance: float) -> Estimate:
    """One method after another at the points that are left."""
    found = estimate
    for method in methods:
        open_points = ~found.converged
        if method in _BY_POWERS:
            open_points &= ~(found.conditions > ILL_CONDITIONED)
        rest = open_points.nonzero()[:, 0]
        if len(rest):
            here = matrices[handed(rest, matrices.device)]
            # Where one point was refuted, the next check of a single one may fall on another.
            is_doubted = method is Method.POWERS and bool(found.errors[rest].isinf().all())
            own = _powers(here, tolerance, is_long=True) if is_doubted else _by_name(here, method, tolerance)
            found = found.where_better(rest, own)
    return found
