"""What the report says of the estimates along one edge, and the warning where some did not converge."""

from __future__ import annotations

import math

from torch import Tensor

from lsc_graph.results import RadiusOutcome
from lsc_graph.spectra.estimate import Estimate

# First-order perturbation theory says little about an eigenvalue beyond this condition number.
BADLY_CONDITIONED = 1e6


def outcome_of(source: str, target: str, estimate: Estimate) -> RadiusOutcome:
    """How many points each method gave, how many converged, and the largest error and condition number."""
    return RadiusOutcome(
        source=source,
        target=target,
        methods=estimate.counts(),
        num_points=len(estimate),
        num_converged=int(estimate.converged.sum()),
        max_error=_largest(estimate.errors[estimate.converged]),
        max_condition=_largest(estimate.conditions),
    )


def _largest(values: Tensor) -> float | None:
    finite = values[values.isfinite()]
    return float(finite.max()) if finite.numel() else None


def outcome_warnings(outcomes: tuple[RadiusOutcome, ...]) -> tuple[str, ...]:
    """In words: radii that did not converge, and eigenvalues that a small change of the weights moves far."""
    found = []
    for own in outcomes:
        edge = own.target if own.source == own.target else f"{own.source} -> {own.target}"
        if own.num_converged < own.num_points:
            found.append(
                f"The spectral radius of {edge} did not converge at {own.num_points - own.num_converged} of "
                f"{own.num_points} points, which its mean leaves out"
            )
        if own.max_condition is not None and own.max_condition > BADLY_CONDITIONED:
            found.append(
                f"The dominant eigenvalue of {edge} is badly conditioned (up to 10^"
                f"{math.log10(own.max_condition):.0f}): small changes move its radius far"
            )
    return tuple(found)
