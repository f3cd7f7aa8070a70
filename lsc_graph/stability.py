"""The verdict: a pure function of counts, radii and measured growth (theory section 4).

The label follows the measured gradient, never a prediction. The stability index a^p + b^p says what
happens as depth and time grow together; where it and the measurement differ, the reasons say why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from lsc_graph.results import Growth, GrowthPoint, Judgement, Verdict

BAND_DECADES = 1.0
"""A gradient that stays within a factor of 10 of where it started counts as kept."""
NEUTRAL = 0.02
"""A path's product counts as neither growing nor decaying if its factor per edge is this close to 1."""


def exponent(coherence: float | None) -> float:
    """p = 2 / (1 + kappa) of the critical line a^p + b^p = 1: 1 if all paths align, 2 if they are unrelated.

    Coherence is taken between 0 and 1: paths that cancel are counted as unrelated, since cancellation
    need not last; without a measured coherence (a single path) p is 1, the paper's coherent bound.
    """
    return 1.0 if coherence is None else 2.0 / (1.0 + min(max(coherence, 0.0), 1.0))


def stability_index(
    time_factors: Sequence[float], depth_factors: Sequence[float], coherence: float | None
) -> float | None:
    """a^p + b^p for the mean time and depth factors; a or b itself where there is only one kind."""
    if time_factors and depth_factors:
        p = exponent(coherence)
        return float(fmean(time_factors) ** p + fmean(depth_factors) ** p)
    factors = time_factors or depth_factors
    return fmean(factors) if factors else None


def recommended_target(
    time_factors: Sequence[float], depth_factors: Sequence[float], coherence: float | None
) -> float | None:
    """The balanced target 2^(-1/p), from 1/2 to 0.7071; 1 where there is only one kind of edge."""
    if time_factors and depth_factors:
        return float(2.0 ** (-1.0 / exponent(coherence)))
    return 1.0 if time_factors or depth_factors else None


def judge(
    *,
    growth: Growth,
    time_factors: Sequence[float],
    depth_factors: Sequence[float],
    num_layers: int,
    num_steps: int,
) -> Judgement:
    """The verdict over the depth and time that were measured.

    - growth beyond a factor of 10 anywhere in the grid: EXPLODING; SUBEXPONENTIAL if it is the number of
      paths alone that grows (each path's product is neutral) and time exceeds twice the depth, so that
      the growth is polynomial in T;
    - else a loss beyond a factor of 10 at the farthest cell: VANISHING;
    - else STABLE;
    - INCONCLUSIVE where nothing was measured, where the gradient is cut (exactly zero), or where two
      standard errors reach across the threshold.

    Args:
        growth: measured growth.
        time_factors: mean time radius of each recurrent layer.
        depth_factors: mean depth radius, or gain, of each depth edge.
        num_layers: number of layers.
        num_steps: T.
    """
    evidence = _Evidence(growth, time_factors, depth_factors, num_layers, num_steps)
    label, why = _label(evidence)
    index = stability_index(time_factors, depth_factors, growth.coherence)
    reasons = (*why, *_causes(evidence), *_about_index(evidence, label, index))
    target = recommended_target(time_factors, depth_factors, growth.coherence)
    return Judgement(label, reasons, index, target)


@dataclass(frozen=True)
class _Evidence:
    growth: Growth
    time_factors: Sequence[float]
    depth_factors: Sequence[float]
    num_layers: int
    num_steps: int

    @property
    def peak(self) -> GrowthPoint:
        """Where the gradient is largest."""
        seen = [point for point in self.growth.table if point.measured_log10 is not None]
        return max(seen, key=lambda point: point.measured_log10 or 0.0)

    @property
    def distance(self) -> str:
        """The way to the farthest cell, in words."""
        return _way(self.growth.dt, self.growth.dl)


def _label(evidence: _Evidence) -> tuple[Verdict, tuple[str, ...]]:
    growth = evidence.growth
    if growth.dt == 0 and growth.dl == 0:
        return Verdict.INCONCLUSIVE, ("There is a single layer and a single step: no growth to measure.",)
    far = [point for point in growth.table if point.dt or point.dl]
    if all(point.measured_log10 is None for point in far):
        return Verdict.INCONCLUSIVE, ("The gradient is exactly zero one edge away from the end: it is cut.",)
    peak = evidence.peak
    top = peak.measured_log10 or 0.0
    if _undecided(top, growth.std_error):
        return Verdict.INCONCLUSIVE, (_too_noisy(top, growth.std_error),)
    if top > BAND_DECADES:
        return _growing(evidence, peak)
    end = growth.measured_log10
    if end is None:
        return Verdict.VANISHING, (f"The gradient is exactly zero {evidence.distance} before the end.",)
    if _undecided(end, growth.std_error):
        return Verdict.INCONCLUSIVE, (_too_noisy(end, growth.std_error),)
    if end < -BAND_DECADES:
        return Verdict.VANISHING, (_vanishing(evidence, end),)
    return Verdict.STABLE, (
        f"Over {evidence.distance} the gradient changes by a factor of {_factor(end)}, "
        "and nowhere in between by more than 10 upwards.",
    )


def _undecided(value: float, std_error: float | None) -> bool:
    return std_error is not None and abs(abs(value) - BAND_DECADES) < 2 * std_error


def _too_noisy(value: float, std_error: float | None) -> str:
    return (
        f"The measured growth of {value:+.2f} +- {std_error or 0.0:.2f} decades is too close to the "
        f"threshold of {BAND_DECADES:g} decade to decide: give more samples."
    )


def _growing(evidence: _Evidence, peak: GrowthPoint) -> tuple[Verdict, tuple[str, ...]]:
    top = peak.measured_log10 or 0.0
    where = _way(peak.dt, peak.dl)
    text = f"Over {where} the gradient grows by a factor of {_factor(top)}."
    factor = _factor_per_edge(peak)
    is_neutral = factor is not None and abs(factor - 1.0) <= NEUTRAL
    if is_neutral and evidence.num_steps > 2 * evidence.num_layers > 2:
        more = "Each path keeps its gradient; it is the number of paths that grows, polynomially in time."
        return Verdict.SUBEXPONENTIAL, (text, more)
    if factor is not None and factor < 1.0 - NEUTRAL:
        more = f"Each path alone loses (factor {factor:.3f} per edge), but there are more and more of them."
        return Verdict.EXPLODING, (text, more)
    return Verdict.EXPLODING, (text,)


def _factor_per_edge(point: GrowthPoint) -> float | None:
    """The effective factor per edge: the rms norm of one path's product to the power 1 / (dt + dl)."""
    edges = point.dt + point.dl
    if point.measured_log10 is None or edges == 0:
        return None
    shared = 0.5 * (1.0 + (point.coherence or 0.0)) * (point.log10_num_paths or 0.0)
    return float(10.0 ** ((point.measured_log10 - shared) / edges))


def _vanishing(evidence: _Evidence, end: float) -> str:
    growth = evidence.growth
    row = sorted((p for p in growth.table if p.dl == growth.dl), key=lambda p: p.dt)
    if growth.dt == 0:
        row = sorted((p for p in growth.table if p.dt == 0), key=lambda p: p.dl)
    small = next((p for p in row if (p.measured_log10 or 0.0) < -BAND_DECADES), None)
    text = f"Over {evidence.distance} the gradient shrinks by a factor of {_factor(-end)}"
    return f"{text}; below a tenth from {_way(small.dt, small.dl)} on." if small else f"{text}."


def _causes(evidence: _Evidence) -> tuple[str, ...]:
    """The three-factor split in words, where there is more than one path."""
    growth = evidence.growth
    if growth.coherence is None or growth.local_log10 is None:
        return ()
    parts = {
        "the number of paths": growth.paths_log10 or 0.0,
        "the size of the local Jacobians": growth.local_log10,
        "the interference of the paths": growth.interference_log10 or 0.0,
    }
    largest = max(parts, key=lambda name: abs(parts[name]))
    listed = ", ".join(f"{value:+.2f} from {name}" for name, value in parts.items())
    return (f"Of {growth.measured_log10 or 0.0:+.2f} decades, {listed}: {largest} weighs most.",)


def _about_index(evidence: _Evidence, label: Verdict, index: float | None) -> tuple[str, ...]:
    if index is None:
        return ()
    if evidence.time_factors and evidence.depth_factors:
        p = exponent(evidence.growth.coherence)
        what = f"The stability index a^p + b^p is {index:.3f} (p = {p:.2f}; 1 is critical)"
    else:
        kind = "time" if evidence.time_factors else "depth"
        what = f"The mean {kind} factor is {index:.3f} (1 is critical)"
    side = "above" if index > 1.0 else "below"
    agrees = (index > 1.0) == (label in (Verdict.EXPLODING, Verdict.SUBEXPONENTIAL))
    if label in (Verdict.STABLE, Verdict.INCONCLUSIVE) or agrees:
        return (f"{what}.",)
    return (
        f"{what}, {side} critical, yet the measured gradient decides: the index speaks of means, and of "
        f"depth and time growing together, the measurement of {evidence.distance}.",
    )


def _way(dt: int, dl: int) -> str:
    steps = f"{dt} step{'s' * (dt != 1)}"
    layers = f"{dl} layer{'s' * (dl != 1)}"
    if dt and dl:
        return f"{steps} and {layers}"
    return steps if dt or not dl else layers


def _factor(decades: float) -> str:
    """10^decades for people."""
    if abs(decades) < 3:
        return f"{10**decades:.3g}"
    return f"10^{decades:.1f}"
