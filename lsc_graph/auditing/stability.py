"""The verdict: a pure function of counts, radii and measured growth (theory section 4).

The label follows the measured gradient, never a prediction. The stability index a^p + b^p says what
happens as depth and time grow together (a + b is the paper's, arXiv 2308.12075; p is past it); where it
and the measurement differ, the reasons say why. All growth is in decades (log10).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean

from lsc_graph.auditing.evidence import (
    BAND_DECADES,
    COUNT_BEND,
    MEASURED_BEND,
    MIN_POINTS,
    Evidence,
    bends,
    count,
    drifts_upwards,
    halves,
    level,
    local,
    nonzero,
)
from lsc_graph.auditing.verdict_words import (
    about_index,
    confidence,
    factor,
    in_words,
    measured,
    split,
    staying,
    too_noisy,
    vanishing,
    way,
    way_back,
)
from lsc_graph.results import Growth, Judgement, Verdict


def exponent(coherence: float | None) -> float:
    """p = 2 / (1 + kappa) of the critical line a^p + b^p = 1: 1 if all paths align, 2 if they are unrelated.

    Coherence is taken between 0 and 1: paths that cancel (kappa < 0) are counted as unrelated, since
    cancellation need not last. Without a coherence (a single path) p is 1, as in the paper's bound, which
    assumes nothing about the paths.
    """
    return 1.0 if coherence is None else 2.0 / (1.0 + min(max(coherence, 0.0), 1.0))


def stability_index(time_factor: float | None, depth_factor: float | None, p: float) -> float | None:
    """a^p + b^p, critical at 1; a or b itself where edges are of one kind only; None where there are none.

    Args:
        time_factor: a, the mean factor of a time edge; None without recurrence.
        depth_factor: b, the mean factor of a depth edge; None for a single layer.
        p: of the critical line, see `exponent`.
    """
    if time_factor is None or depth_factor is None:
        return time_factor if depth_factor is None else depth_factor
    return float(time_factor**p + depth_factor**p)


def recommended_target(p: float, num_kinds: int) -> float:
    """The factor at which `num_kinds` kinds of edges are balanced and critical: num_kinds^(-1/p).

    For time and depth 2^(-1/p), from 1/2 (coherent, the paper's) to 0.7071 (unrelated paths); 1 for one kind.
    """
    return float(num_kinds ** (-1.0 / p))


def judge(
    *,
    growth: Growth,
    time_factors: Sequence[float],
    depth_factors: Sequence[float],
    num_layers: int,
    num_steps: int,
) -> Judgement:
    """The verdict over the depth and time that were measured.

    With the band of a factor of 10 either way, in this order:

    - INCONCLUSIVE if there is nothing to measure (one cell, or no path between cells), if a figure is
      infinite or not a number, or if the gradient is exactly zero at every other cell: it is cut, and what a
      surrogate derivative would do is not in the model;
    - INCONCLUSIVE if two standard errors more or less lead to different answers below;
    - the gradient grows beyond the band anywhere in the grid (the largest gradients dominate an update,
      whatever the others do): SUBEXPONENTIAL if the number of paths alone carries the growth, which
      is then polynomial in time at this depth (no objection by `_beyond_path_count`); else EXPLODING;
    - it falls below the band at the farthest cell, or on the way to it along time (`Evidence.end`):
      VANISHING. So it does where it is exactly zero there, but not everywhere; the reasons then say that it
      is cut rather than fading;
    - else STABLE.

    Paths that lose on their own (a < 1) while their number grows faster are SUBEXPONENTIAL as well: for
    a = b = .9, L = 10, T = 60 the gradient grows by 7 decades, but its rate falls from step to step and
    turns negative at 80; a + b = 1.8 says that it would explode with depth growing along.

    Args:
        growth: measured growth. Its standard error is that of the farthest cell; errors of nearer cells are
            taken as smaller by the square root of their number of edges, as for independent factors.
        time_factors: mean time radius of each recurrent layer (gain where there is none).
        depth_factors: mean radius of the active block of each depth edge (gain where there is none).
        num_layers: L.
        num_steps: T.
    """
    p = exponent(growth.coherence)
    a, b = (fmean(factors) if factors else None for factors in (time_factors, depth_factors))
    num_kinds = (a is not None) + (b is not None)
    evidence = Evidence(growth, p, stability_index(a, b, p), num_kinds, num_layers, num_steps)
    label, why = _verdict(evidence)
    target = recommended_target(p, num_kinds) if num_kinds else None
    return Judgement(label, tuple(why), evidence.index, target)


def _verdict(evidence: Evidence) -> tuple[Verdict, list[str]]:
    """The label, and every reason."""
    obstacle = _obstacle(evidence)
    if obstacle is not None:
        return Verdict.INCONCLUSIVE, [obstacle]
    label, why = _label(evidence)
    return label, [
        *why,
        *split(evidence.decisive),
        *about_index(evidence, label),
        *confidence(evidence, label),
    ]


def _obstacle(evidence: Evidence) -> str | None:
    """What keeps the growth from being judged at all."""
    if not any(point.dt or point.dl for point in evidence.growth.table):
        return "There is a single layer and a single step: no growth to measure."
    if not evidence.points:
        return "No path leads from any other layer or step to the last state: no growth to measure."
    for point in evidence.points:
        if not math.isfinite(point.measured_log10 or 0.0):
            return f"{way_back(point)} the gradient is no finite number: some local Jacobian overflows."
    if all(point.measured_log10 is None for point in evidence.points):
        return (
            "The gradient is exactly zero everywhere before the last state: it is cut, by thresholds, "
            "roundings or units that are dead or saturated. Lengths are kept as logarithms, so no product "
            "underflows. What a surrogate derivative would make of it is not in the model."
        )
    return None


def _label(evidence: Evidence) -> tuple[Verdict, list[str]]:
    """The label and its first reasons."""
    if len(set(evidence.trends)) > 1:
        return Verdict.INCONCLUSIVE, [too_noisy(evidence)]
    match evidence.trends[1]:
        case "grows":
            return _growing(evidence)
        case "fades":
            return Verdict.VANISHING, [*vanishing(evidence)]
        case "stays":
            return Verdict.STABLE, [*staying(evidence)]


def _growing(evidence: Evidence) -> tuple[Verdict, list[str]]:
    peak, far = evidence.peak, evidence.far
    text = f"Over {way(peak)} the gradient grows by a factor of {factor(level(peak))} "
    text += f"({measured(peak, evidence)})"
    if peak is not far:
        text += f", its largest; over {way(far)} it changes by a factor of {factor(level(far))}"
    objections = list(_beyond_path_count(evidence))
    if objections:
        return Verdict.EXPLODING, [f"{text}.", *objections]
    row = nonzero(evidence.row(peak.dl))
    alone = local(peak) / (peak.dt + peak.dl)
    more = (
        f"The number of paths alone carries this: one path's product changes by a factor of {10**alone:.3f} "
        f"per edge, and growth slows down, {in_words(halves(row, level))}. At this depth it is polynomial "
        "in time."
    )
    return Verdict.SUBEXPONENTIAL, [f"{text}.", more]


def _beyond_path_count(evidence: Evidence) -> Iterator[str]:
    """Objections to the claim that the number of paths alone carries the growth, polynomially in time.

    The claim needs, at the depth of the peak: no growth beyond the band by depth alone (that of many
    paths, as between both directions of a bidirectional stack, is none of the products); a path product
    within the band that does not drift upwards along time, neither up to the peak nor in the later half of
    the steps; and a path count and a measured growth that slow down over time. In a grid less than about
    twice as long as deep the count does not: depth and time then grow together, which is the paper's
    exponential case.
    """
    peak, row = evidence.peak, nonzero(evidence.row(evidence.peak.dl))
    start, middle, end = row[0], row[len(row) // 2], row[-1]
    is_short = len(row) < MIN_POINTS
    by_depth = level(start) > BAND_DECADES and (is_short or local(start) > BAND_DECADES)
    if by_depth:
        yield f"It takes no more than {way(start)} for a factor of {factor(level(start))}."
    elif local(peak) > BAND_DECADES:
        yield f"One path's product alone grows by a factor of {factor(local(peak))} over {way(peak)}."
    for first, last in ((start, peak), (middle, end)):
        if drifts_upwards(first, last):
            rate = 10 ** ((local(last) - local(first)) / (last.dt - first.dt))
            yield f"One path's product grows with time, by a factor of {rate:.3f} per step."
            break
    if is_short:
        if not by_depth:
            yield "There are too few steps to see whether the growth slows down."
    elif not bends(halves(row, count), COUNT_BEND):
        slowing = in_words(halves(row, count))
        yield f"The number of paths grows nearly exponentially at this size, {slowing}."
    elif not bends(halves(row, level), MEASURED_BEND):
        yield f"The growth hardly slows down, {in_words(halves(row, level))}."
