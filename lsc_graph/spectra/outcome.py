"""What the report says of the estimates along one edge, and the warning where some did not converge."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lsc_graph.results import RadiusOutcome
from lsc_graph.spectra.estimate import Estimate

# First-order perturbation theory says little about an eigenvalue beyond this condition number.
BADLY_CONDITIONED = 1e6


def outcome_of(source: str, target: str, estimate: Estimate, bars: Sequence[Tensor] = ()) -> RadiusOutcome:
    """How many points each method gave, how many converged, and the largest error and condition number.

    Args:
        source, target: the edge.
        estimate: at all points.
        bars: how far the radii [P] may be off for the matrices' own error bars, where they have any.
    """
    own = torch.cat(list(bars)) if bars else torch.zeros(0, dtype=torch.float64)
    is_of_all = len(own) == len(estimate) > 0 and not bool(own.isnan().any())
    relative = own / estimate.values.abs() if is_of_all else own
    return RadiusOutcome(
        source=source,
        target=target,
        methods=estimate.counts(),
        num_points=len(estimate),
        num_converged=int(estimate.converged.sum()),
        max_error=_largest(estimate.errors[estimate.converged]),
        max_condition=_largest(estimate.conditions),
        max_difference_error=_largest(relative[relative <= 1]) if is_of_all else None,
        num_unknown=int((own > estimate.values.abs()).sum()) if len(own) == len(estimate) else 0,
    )


def _largest(values: Tensor) -> float | None:
    finite = values[values.isfinite()]
    return float(finite.max()) if finite.numel() else None


def outcome_warnings(outcomes: tuple[RadiusOutcome, ...]) -> tuple[str, ...]:
    """In words: radii that did not converge, and eigenvalues that a small change of the weights moves far."""
    found = []
    for own in outcomes:
        edge = own.target if own.source == own.target else f"{own.source} -> {own.target}"
        if own.num_unknown:
            found.append(
                f"The spectral radius of {edge} is unknown at {own.num_unknown} of {own.num_points} points, "
                "which its mean leaves out: error bars of finite differences may move it by more than itself"
            )
        num_open = own.num_points - own.num_converged - own.num_unknown
        if num_open > 0:
            found.append(
                f"The spectral radius of {edge} did not converge at {num_open} of "
                f"{own.num_points} points, which its mean leaves out"
            )
        if own.max_condition is not None and own.max_condition > BADLY_CONDITIONED:
            found.append(
                f"The dominant eigenvalue of {edge} is badly conditioned (up to 10^"
                f"{math.log10(own.max_condition):.0f}): small changes move its radius far"
            )
    return tuple(found)
