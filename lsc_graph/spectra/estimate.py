"""What an estimator of spectral radii returns: values, how far each may be off, and whether it converged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor


class Method(StrEnum):
    """Ways to a spectral radius; AUTO is a measured choice by size and device."""

    AUTO = "auto"
    DENSE = "dense"
    SQUARING = "squaring"
    POWERS = "powers"
    ARNOLDI = "arnoldi"
    BLOCKS = "blocks"


# The largest relative error that an estimate may have and still count as converged.
TOLERANCE = 5e-3


@dataclass(frozen=True)
class Estimate:
    """Spectral radii of a batch of P matrices, float64 on the CPU.

    `values` [P] are the best that was found, also where `converged` [P] is False: such a value is to be shown
    as not converged, or not at all. `errors` [P] are estimates of the relative error (inf: none known).
    `conditions` [P] are condition numbers 1 / |w^H v| of the dominant eigenvalue, with unit left and right
    eigenvectors (nan: not computed). `methods` says which estimator gave each value.
    """

    values: Tensor
    errors: Tensor
    converged: Tensor
    conditions: Tensor
    methods: tuple[Method, ...]

    @staticmethod
    def of(
        method: Method,
        values: Tensor,
        errors: Tensor,
        *,
        tolerance: float,
        conditions: Tensor | None = None,
    ) -> Estimate:
        """All points by one method; converged where the error is known to be at most `tolerance`."""
        unknown = torch.full_like(values, torch.nan)
        given = [values, errors, unknown if conditions is None else conditions]
        # One transfer, for which the host waits for the device once.
        values, errors, conditions = torch.stack([own.detach().double() for own in given]).cpu()
        errors = torch.where(errors.isnan() | ~values.isfinite(), torch.inf, errors)
        return Estimate(values, errors, errors <= tolerance, conditions, (method,) * values.numel())

    @staticmethod
    def empty() -> Estimate:
        """Of no matrices."""
        nothing = torch.zeros(0, dtype=torch.float64)
        return Estimate(nothing, nothing, nothing.bool(), nothing, ())

    @staticmethod
    def none(method: Method, num_points: int) -> Estimate:
        """Nothing known at so many points."""
        unknown = torch.full((num_points,), torch.nan, dtype=torch.float64)
        return Estimate.of(method, unknown, unknown, tolerance=0.0)

    @staticmethod
    def joined(parts: Sequence[Estimate]) -> Estimate:
        """Estimates of several batches, one after another."""
        parts = parts or [Estimate.empty()]
        fields = {name: torch.cat([getattr(part, name) for part in parts]) for name in ESTIMATED}
        return Estimate(methods=tuple(method for part in parts for method in part.methods), **fields)

    def __len__(self) -> int:
        return self.values.numel()

    def where_better(self, points: Tensor, other: Estimate) -> Estimate:
        """With `other`, taken at the point numbers `points`, wherever its error is smaller."""
        better = other.errors < self.errors[points]
        chosen, taken = points[better], better.nonzero()[:, 0]
        fields = {}
        for name in ESTIMATED:
            fields[name] = getattr(self, name).clone()
            fields[name][chosen] = getattr(other, name)[taken]
        methods = list(self.methods)
        for point, index in zip(chosen.tolist(), taken.tolist(), strict=True):
            methods[point] = other.methods[index]
        return Estimate(methods=tuple(methods), **fields)

    def scaled(self, factors: Tensor) -> Estimate:
        """Of the matrices times positive factors [P]."""
        return replace(self, values=self.values * factors.double().cpu())

    def at(self, points: Tensor) -> Estimate:
        """At some of the points, by their numbers."""
        fields = {name: getattr(self, name)[points] for name in ESTIMATED}
        return Estimate(methods=tuple(self.methods[point] for point in points.tolist()), **fields)

    def refuted(self) -> Estimate:
        """With no point converged."""
        no_error = torch.full_like(self.errors, torch.inf)
        return replace(self, errors=no_error, converged=torch.zeros_like(self.converged))

    def unless_contradicted(self, other: Estimate, tolerance: float = TOLERANCE) -> Estimate:
        """With no point converged where `other` has converged to another value; the larger one is shown."""
        larger = torch.maximum(self.values, other.values)
        allowed = (self.errors + other.errors + tolerance / 2) * larger
        is_other = self.converged & other.converged & ((self.values - other.values).abs() > allowed)
        return replace(
            self,
            values=torch.where(is_other, larger, self.values),
            errors=torch.where(is_other, torch.inf, self.errors),
            converged=self.converged & ~is_other,
        )

    def known_within(self, bars: Tensor) -> Estimate:
        """With no point converged whose value may be off by more than itself, by absolute error bars [P].

        Bars of nan are not known, and change nothing.
        """
        errors = torch.where(bars > self.values.abs(), torch.inf, self.errors)
        return replace(self, errors=errors, converged=self.converged & errors.isfinite())

    def with_residuals(self, lost: Tensor, bars: Tensor, tolerance: float = TOLERANCE) -> Estimate:
        """With relative errors [P] that residuals taken anew show, at least.

        No point is converged whose error is beyond the tolerance and what absolute error bars explain.
        """
        explained = 2 * bars / self.values.abs()
        is_known = lost <= tolerance + explained.nan_to_num(0.0, 0.0, 0.0)
        errors = torch.maximum(self.errors, torch.where(lost.isnan(), torch.inf, lost))
        return replace(self, errors=errors, converged=(self.errors <= tolerance) & is_known)

    def counts(self) -> dict[str, int]:
        """How many points each method gave."""
        return dict(Counter(str(method) for method in self.methods))


ESTIMATED = ("values", "errors", "converged", "conditions")
"""What an estimate has of every point, as tensors."""
