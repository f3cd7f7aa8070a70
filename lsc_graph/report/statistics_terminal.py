"""What the terminal says of statistics: spread over layers, covariance over time, precision, predictions."""

from __future__ import annotations

from collections import defaultdict

from rich.console import Console
from rich.text import Text

from lsc_graph.results import Analysis, CovarianceDecay, Growth, Statistics
from lsc_graph.wording import few

_KINDS = {"time_radius": "time radius", "depth_radius": "depth radius"}


def render_statistics(analysis: Analysis, console: Console) -> None:
    """One line for each of the three, where there is something to say."""
    lines = [_spread(analysis), _covariance(analysis), _precision(analysis)]
    for line in filter(None, lines):
        console.print(Text(line, style="dim"))


def _spread(analysis: Analysis) -> str:
    words = [
        f"{_KINDS[own.kind]} {own.mean:.3f} \u00b1 {own.std:.3f} ({own.min:.3f} to {own.max:.3f})"
        for own in analysis.spread
        if own.kind in _KINDS and own.num_layers > 1
    ]
    return f"over the layers: {'; '.join(words)}" if words else ""


def _covariance(analysis: Analysis) -> str:
    """Whether the radii's covariance decays over time, with the slowest of each outcome."""
    names: defaultdict[CovarianceDecay, list[str]] = defaultdict(list)
    slowest = 0
    for name, value in _radii(analysis):
        if value.time_correlation is not None:
            names[value.time_correlation.decaying_covariance].append(name)
            slowest = max(slowest, value.time_correlation.decay_steps or 0)
    if not names:
        return ""
    parts = []
    for outcome, own in names.items():
        shown = "all" if len(names) == 1 else few(own, 4)
        steps = f" (below 1/e within {slowest} steps)" if outcome is CovarianceDecay.HOLDS else ""
        parts.append(f"{shown}: {outcome}{steps}")
    return f"decaying covariance of the radii over {analysis.grid.num_steps} steps: {'; '.join(parts)}"


def _radii(analysis: Analysis) -> list[tuple[str, Statistics]]:
    found = []
    for layer in analysis.layers:
        number = layer.id.removeprefix("layer_")
        if layer.time_radius is not None:
            found.append((f"time {number}", layer.time_radius))
        for edge in layer.depth_edges:
            source = edge.source.removeprefix("layer_")
            found.append((f"depth {source}->{number}", edge.radius or edge.gain))
    return found


def _precision(analysis: Analysis) -> str:
    found = analysis.precision
    if found is None:
        return ""
    outcome = "reached" if found.is_reached else f"NOT reached ({found.limit})"
    return (
        f"precision {found.requested:g} {outcome}: largest standard error {found.largest_std_error:.2g} "
        f"({found.where}) with {found.num_samples} samples in {found.num_rounds} round(s)"
    )


def predictions(growth: Growth) -> str:
    """What the predictors say of the growth at the farthest cell, beside what was measured; "" for none."""
    named = {
        "resampled": growth.resampled_log10,
        "mean field": growth.mean_field_log10,
        "incoherent": growth.incoherent_log10,
        "coherent": growth.coherent_log10,
    }
    known = [f"{name} {value:+.2f}" for name, value in named.items() if value is not None]
    if growth.measured_log10 is None or growth.resampled_log10 is None:
        return ""
    return f"measured {growth.measured_log10:+.2f}; predicted from local Jacobians: {', '.join(known)}"
