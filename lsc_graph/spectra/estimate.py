"""What an estimator of spectral radii returns: values, how far each may be off, and whether it converged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor


class Method(StrEnum):
    """Ways to a spectral radius; AUTO is a measured choice by size and device."""

    AUTO = "auto"
    DENSE = "dense"
    SQUARING = "squaring"
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
        method: Method, values: Tensor, errors: Tensor, *, tolerance: float, conditions: Tensor | None = None
    ) -> Estimate:
        """All points by one method; converged where the error is known to be at most `tolerance`."""
        values, errors = values.detach().double().cpu(), errors.detach().double().cpu()
        errors = torch.where(errors.isnan() | ~values.isfinite(), torch.inf, errors)
        known = (
            torch.full_like(values, torch.nan) if conditions is None else conditions.detach().double().cpu()
        )
        return Estimate(values, errors, errors <= tolerance, known, (method,) * values.numel())

    @staticmethod
    def empty() -> Estimate:
        """Of no matrices."""
        nothing = torch.zeros(0, dtype=torch.float64)
        return Estimate(nothing, nothing, nothing.bool(), nothing, ())

    @staticmethod
    def joined(parts: Sequence[Estimate]) -> Estimate:
        """Estimates of several batches, one after another."""
        parts = parts or [Estimate.empty()]
        return Estimate(
            torch.cat([part.values for part in parts]),
            torch.cat([part.errors for part in parts]),
            torch.cat([part.converged for part in parts]),
            torch.cat([part.conditions for part in parts]),
            tuple(method for part in parts for method in part.methods),
        )

    def __len__(self) -> int:
        return self.values.numel()

    def where_better(self, points: Tensor, other: Estimate) -> Estimate:
        """With `other`, taken at the point numbers `points`, wherever its error is smaller."""
        better = other.errors < self.errors[points]
        chosen, taken = points[better], better.nonzero()[:, 0]
        fields = []
        for name in ("values", "errors", "converged", "conditions"):
            merged = getattr(self, name).clone()
            merged[chosen] = getattr(other, name)[taken]
            fields.append(merged)
        methods = list(self.methods)
        for point, index in zip(chosen.tolist(), taken.tolist(), strict=True):
            methods[point] = other.methods[index]
        return Estimate(fields[0], fields[1], fields[2], fields[3], tuple(methods))

    def distrusting(self, condition: float) -> Estimate:
        """With points of worse conditioned eigenvalues counted as not converged."""
        is_worse = self.conditions > condition
        errors = torch.where(is_worse, torch.inf, self.errors)
        return Estimate(self.values, errors, self.converged & ~is_worse, self.conditions, self.methods)

    def counts(self) -> dict[str, int]:
        """How many points each method gave."""
        return dict(Counter(str(method) for method in self.methods))
