"""The verdict: a pure function of counts, radii and measured growth (theory section 4).

The label follows the measured gradient, never a prediction. The stability index a^p + b^p says what
happens as depth and time grow together (a + b is the paper's, arXiv 2308.12075; p is past it); where it
and the measurement differ, the reasons say why. All growth is in decades (log10).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from statistics import fmean
from typing import Literal

from lsc_graph.results import Growth, GrowthPoint, Judgement, Verdict

BAND_DECADES = 1.0
"""A gradient that stays within a factor of 10 of where it started counts as kept."""
NEUTRAL = 0.02
"""One path's product counts as kept along time if its factor per step exceeds 1 by no more than this."""
DRIFT_DECADES = (0.1, 0.5)
"""Less drift than the first is noise; more than the second is growth, however slow per step."""
COUNT_BEND = 0.4
"""The path count grows slower than exponentially over time if the second half of the steps adds no more than
this part of what the first half adds to its log. An exponential adds as much again (1); a rectangular grid
little for T >> L, .38 for T = 2L, .45 for T = L, and towards 1 for T << L."""
MEASURED_BEND = 0.6
"""The same for the measured growth, which follows the count with fluctuations."""
CRITICAL = 0.05
"""A stability index this close to 1 counts as critical."""
NUM_ERRORS = 2.0
"""A comparison is decided if it holds this many standard errors to either side."""
MIN_POINTS = 4
"""Fewer points than this show no shape of a curve."""
FEW_STEPS = 8
"""Over fewer steps than this, slow growth or decay does not show."""

_Trend = Literal["grows", "fades", "stays"]


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
    - it falls below the band at the farthest cell, or on the way to it along time (`_Evidence.end`):
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
    evidence = _Evidence(growth, p, stability_index(a, b, p), num_kinds, num_layers, num_steps)
    label, why = _verdict(evidence)
    target = recommended_target(p, num_kinds) if num_kinds else None
    return Judgement(label, tuple(why), evidence.index, target)


@dataclass(frozen=True)
class _Evidence:
    growth: Growth
    p: float
    index: float | None
    num_kinds: int
    num_layers: int
    num_steps: int

    @cached_property
    def points(self) -> tuple[GrowthPoint, ...]:
        """The cells other than the last from which some path leads to the end."""
        return tuple(
            point
            for point in self.growth.table
            if (point.dt or point.dl)
            and (point.log10_num_paths is not None or point.measured_log10 is not None)
        )

    @cached_property
    def far(self) -> GrowthPoint:
        """The farthest of them."""
        return max(self.points, key=lambda point: (point.dl, point.dt))

    @cached_property
    def end(self) -> GrowthPoint:
        """The cell by which fading is judged: the farthest, or a valley below the band on the way to it.

        A valley along time shows where steps are no distance: in a bidirectional stack the first step of the
        forward layer is one edge away from the last state of the backward layer above, and the cells
        in the middle of the sequence are the farthest. (On a plain grid log growth is concave in dt.)
        """
        row = self.row(self.far.dl)
        lowest = min(row, key=_level)
        has_valley = not _is_below(row[0]) and not _is_below(self.far) and _is_below(lowest)
        return lowest if has_valley else self.far

    @cached_property
    def peak(self) -> GrowthPoint:
        """Where the gradient is largest."""
        return max(self.points, key=_level)

    @cached_property
    def trends(self) -> tuple[_Trend, ...]:
        """What the gradient does by the lowest, the middle and the highest reading."""
        return tuple(self._trend(errors) for errors in (-NUM_ERRORS, 0.0, NUM_ERRORS))

    def _trend(self, errors: float) -> _Trend:
        top = max(self._reading(point, errors) for point in self.points)
        return "grows" if top > BAND_DECADES else _trend_of(self._reading(self.end, errors))

    def _reading(self, point: GrowthPoint, errors: float) -> float:
        """The measured growth, taken `errors` standard errors higher."""
        share = (point.dt + point.dl) / (self.far.dt + self.far.dl)
        return _level(point) + errors * (self.growth.std_error or 0.0) * math.sqrt(share)

    @property
    def decisive(self) -> GrowthPoint:
        """The cell that decides the verdict: the peak of what grows, else the end."""
        return self.peak if self.trends[1] == "grows" else self.end

    def row(self, dl: int) -> list[GrowthPoint]:
        """The cells dl layers below the end, by steps."""
        return sorted((point for point in self.points if point.dl == dl), key=lambda point: point.dt)

    def row_to_end(self) -> list[GrowthPoint]:
        """The cells on the way to the end along time."""
        return [point for point in self.row(self.end.dl) if point.dt <= self.end.dt]

    def column(self, dt: int) -> list[GrowthPoint]:
        """The cells dt steps before the end, by layers."""
        return sorted((point for point in self.points if point.dt == dt), key=lambda point: point.dl)


def _verdict(evidence: _Evidence) -> tuple[Verdict, list[str]]:
    """The label, and every reason."""
    obstacle = _obstacle(evidence)
    if obstacle is not None:
        return Verdict.INCONCLUSIVE, [obstacle]
    label, why = _label(evidence)
    return label, [
        *why,
        *_split(evidence.decisive),
        *_about_index(evidence, label),
        *_confidence(evidence, label),
    ]


def _obstacle(evidence: _Evidence) -> str | None:
    """What keeps the growth from being judged at all."""
    if not any(point.dt or point.dl for point in evidence.growth.table):
        return "There is a single layer and a single step: no growth to measure."
    if not evidence.points:
        return "No path leads from any other layer or step to the last state: no growth to measure."
    for point in evidence.points:
        if not math.isfinite(point.measured_log10 or 0.0):
            return f"{_way_back(point)} the gradient is no finite number: some local Jacobian overflows."
    if all(point.measured_log10 is None for point in evidence.points):
        return (
            "The gradient is exactly zero everywhere before the last state: it is cut, by thresholds, "
            "roundings or units that are dead or saturated. Lengths are kept as logarithms, so no product "
            "underflows. What a surrogate derivative would make of it is not in the model."
        )
    return None


def _label(evidence: _Evidence) -> tuple[Verdict, list[str]]:
    """The label and its first reasons."""
    if len(set(evidence.trends)) > 1:
        return Verdict.INCONCLUSIVE, [_too_noisy(evidence)]
    match evidence.trends[1]:
        case "grows":
            return _growing(evidence)
        case "fades":
            return Verdict.VANISHING, [*_vanishing(evidence)]
        case "stays":
            return Verdict.STABLE, [*_staying(evidence)]


def _too_noisy(evidence: _Evidence) -> str:
    low, _, high = evidence.trends
    point = evidence.peak if high == "grows" else evidence.end
    error = f"{evidence.growth.std_error or 0.0:.2f} decades"
    words = {"grows": "grows too much", "fades": "fades", "stays": "is kept"}
    return (
        f"Over {_way(point)} the gradient changes by {_measured(point, evidence)}, too close to a factor "
        f"of 10: {NUM_ERRORS:g} standard errors ({error} each) lower it "
        f"{words[low]}, as many higher it {words[high]}. More samples would decide."
    )


def _growing(evidence: _Evidence) -> tuple[Verdict, list[str]]:
    peak, far = evidence.peak, evidence.far
    text = f"Over {_way(peak)} the gradient grows by a factor of {_factor(_level(peak))} "
    text += f"({_measured(peak, evidence)})"
    if peak is not far:
        text += f", its largest; over {_way(far)} it changes by a factor of {_factor(_level(far))}"
    objections = list(_beyond_path_count(evidence))
    if objections:
        return Verdict.EXPLODING, [f"{text}.", *objections]
    row = _nonzero(evidence.row(peak.dl))
    alone = _local(peak) / (peak.dt + peak.dl)
    more = (
        f"The number of paths alone carries this: one path's product changes by a factor of {10**alone:.3f} "
        f"per edge, and growth slows down, {_in_words(_halves(row, _level))}. At this depth it is polynomial "
        "in time."
    )
    return Verdict.SUBEXPONENTIAL, [f"{text}.", more]


def _beyond_path_count(evidence: _Evidence) -> Iterator[str]:
    """Objections to the claim that the number of paths alone carries the growth, polynomially in time.

    The claim needs, at the depth of the peak: no growth beyond the band by depth alone (that of many
    paths, as between both directions of a bidirectional stack, is none of the products); a path product
    within the band that does not drift upwards along time, neither up to the peak nor in the later half of
    the steps; and a path count and a measured growth that slow down over time. In a grid less than about
    twice as long as deep the count does not: depth and time then grow together, which is the paper's
    exponential case.
    """
    peak, row = evidence.peak, _nonzero(evidence.row(evidence.peak.dl))
    start, middle, end = row[0], row[len(row) // 2], row[-1]
    is_short = len(row) < MIN_POINTS
    by_depth = _level(start) > BAND_DECADES and (is_short or _local(start) > BAND_DECADES)
    if by_depth:
        yield f"It takes no more than {_way(start)} for a factor of {_factor(_level(start))}."
    elif _local(peak) > BAND_DECADES:
        yield f"One path's product alone grows by a factor of {_factor(_local(peak))} over {_way(peak)}."
    for first, last in ((start, peak), (middle, end)):
        if _drifts_upwards(first, last):
            rate = 10 ** ((_local(last) - _local(first)) / (last.dt - first.dt))
            yield f"One path's product grows with time, by a factor of {rate:.3f} per step."
            break
    if is_short:
        if not by_depth:
            yield "There are too few steps to see whether the growth slows down."
    elif not _bends(_halves(row, _count), COUNT_BEND):
        halves = _in_words(_halves(row, _count))
        yield f"The number of paths grows nearly exponentially at this size, {halves}."
    elif not _bends(_halves(row, _level), MEASURED_BEND):
        yield f"The growth hardly slows down, {_in_words(_halves(row, _level))}."


def _drifts_upwards(first: GrowthPoint, last: GrowthPoint) -> bool:
    """Whether one path's product grows between two cells of a row."""
    noise, most = DRIFT_DECADES
    allowed = min(most, max(noise, (last.dt - first.dt) * math.log10(1.0 + NEUTRAL)))
    return last.dt > first.dt and _local(last) - _local(first) > allowed


def _halves(row: Sequence[GrowthPoint], of: Callable[[GrowthPoint], float]) -> tuple[float, float]:
    """Decades added in the earlier and in the later half of the steps."""
    start, middle, end = (of(point) for point in (row[0], row[len(row) // 2], row[-1]))
    return middle - start, end - middle


def _bends(halves: tuple[float, float], most: float) -> bool:
    early, late = halves
    return late <= max(0.0, most * early)


def _in_words(halves: tuple[float, float]) -> str:
    early, late = halves
    return f"{early:+.2f} decades in the first half of the steps and {late:+.2f} in the second"


def _vanishing(evidence: _Evidence) -> Iterator[str]:
    end, far, since = evidence.end, evidence.far, _way(_below_from(evidence))
    if end.measured_log10 is None:
        yield (
            f"{_way_back(end)} the gradient is exactly zero, but not everywhere: it is cut rather than "
            f"fading, by thresholds or by dead or saturated units; below a tenth from {since} on."
        )
    else:
        yield (
            f"Over {_way(end)} the gradient shrinks by a factor of {_factor(-_level(end))} "
            f"({_measured(end, evidence)}); below a tenth from {since} on."
        )
    rate, unit = _late_rate(evidence)
    if rate < 0 and end.measured_log10 is not None:
        yield (
            f"In the farther half it keeps a factor of {10**rate:.3f} per {unit}: "
            f"a half-life of {math.log10(2.0) / -rate:.1f} {unit}s."
        )
    if end is not far:
        yield (
            f"Over {_way(far)} it is back at {_measured(far, evidence)}, by a shorter way, as through the "
            "other direction of a bidirectional layer."
        )


def _below_from(evidence: _Evidence) -> GrowthPoint:
    """From where on the gradient stays below the band: along time, or along depth if it always is there."""
    row = evidence.row_to_end()
    below = [*takewhile(_is_below, reversed(row))]
    if len(below) < len(row):
        return below[-1]
    return [*takewhile(_is_below, reversed(evidence.column(row[0].dt)))][-1]


def _is_below(point: GrowthPoint) -> bool:
    return _level(point) < -BAND_DECADES


def _late_rate(evidence: _Evidence) -> tuple[float, str]:
    """Decades per step in the farther half of the steps; per layer where steps are too few."""
    row, column = (_nonzero(line) for line in (evidence.row_to_end(), evidence.column(evidence.end.dt)))
    line, unit = (row, "step") if len(row) >= MIN_POINTS else (column, "layer")
    if not line:
        return 0.0, unit
    middle, end = line[len(line) // 2], line[-1]
    edges = end.dt - middle.dt + end.dl - middle.dl
    return (_level(end) - _level(middle)) / edges if edges else 0.0, unit


def _staying(evidence: _Evidence) -> Iterator[str]:
    far, least = evidence.far, min(evidence.points, key=_level)
    yield (
        f"Over {_way(far)} the gradient changes by a factor of {_factor(_level(far))} "
        f"({_measured(far, evidence)}): within a factor of 10, and nowhere does it grow beyond."
    )
    if _is_below(least):
        size = "zero" if least.measured_log10 is None else f"smaller by a factor of {_factor(-_level(least))}"
        yield f"Not every cell is reached as well: over {_way(least)} it is {size}."


def _split(point: GrowthPoint) -> Iterator[str]:
    """The three factors of the growth to a cell (theory section 4), in words."""
    if point.measured_log10 is None or point.log10_num_paths is None:
        return
    per_edge = f"a factor of {10 ** (_local(point) / (point.dt + point.dl)):.3f} per edge"
    if point.log10_num_paths <= 0:
        yield f"A single path leads over {_way(point)}: the local Jacobians alone decide, {per_edge}."
    if point.log10_num_paths <= 0 or point.coherence is None:
        return
    half = 0.5 * point.log10_num_paths
    parts = {
        "the number of paths": half,
        f"the local Jacobians along a path ({per_edge})": _local(point),
        f"how the paths interfere (coherence {point.coherence:.2f})": point.coherence * half,
    }
    towards = math.copysign(1.0, point.measured_log10)
    cause = max(parts, key=lambda name: towards * parts[name])
    listed = ", ".join(f"{decades:+.2f} from {name}" for name, decades in parts.items())
    yield f"Of these {point.measured_log10:+.2f} decades, {listed}."
    yield f"The main cause is {cause.partition(' (')[0]}."


def _about_index(evidence: _Evidence, label: Verdict) -> Iterator[str]:
    """The stability index, and why it differs from the measurement where it does."""
    index, point = evidence.index, evidence.decisive
    if index is None:
        return
    expected = "stays" if abs(index - 1) <= CRITICAL else "grows" if index > 1 else "fades"
    subject = "depth and time growing together" if evidence.num_kinds == 2 else "a much larger size"
    what = f"The mean factor of an edge is {index:.3f}; 1 is critical"
    if evidence.num_kinds == 2:
        what = f"The stability index a^p + b^p is {index:.3f} with p = {evidence.p:.2f}; 1 is critical"
    predicted = _predicted(point, evidence.p)
    if label is Verdict.INCONCLUSIVE or expected == evidence.trends[1]:
        yield f"{what}."
    elif predicted is not None and _trend_of(predicted) == evidence.trends[1]:
        yield (
            f"{what}. It speaks of {subject}; over just {_way(point)} the same mean factors predict "
            f"{predicted:+.2f} decades, which agrees with the verdict."
        )
    else:
        yield (
            f"{what}. The measured gradient disagrees, and it decides: means miss what the real products do, "
            "where Jacobians are not normal, a few slow units carry the gradient, or layers differ."
        )
    if label is Verdict.SUBEXPONENTIAL and expected == "grows" and evidence.num_kinds == 2:
        yield "With depth growing along with time it would explode."


def _predicted(point: GrowthPoint, p: float) -> float | None:
    """log10 of N^(1/p) a^dt b^dl: between the coherent (p = 1) and the incoherent (p = 2) prediction."""
    if point.coherent_log10 is None or point.log10_num_paths is None:
        return None
    return point.coherent_log10 - (1.0 - 1.0 / p) * point.log10_num_paths


def _confidence(evidence: _Evidence, label: Verdict) -> Iterator[str]:
    """What limits the confidence in the verdict."""
    if evidence.growth.std_error is None:
        yield "No standard error is known, from a single sample or with gradients of zero: give more samples."
    if label is not Verdict.STABLE:
        return
    if 1 < evidence.num_steps < FEW_STEPS:
        yield f"Only {evidence.num_steps} steps were measured: slow growth or decay would not show."
    yield from _outlook(evidence)


def _outlook(evidence: _Evidence) -> Iterator[str]:
    """Where a stable gradient would leave the band, if that is within ten times the size."""
    rate, unit = _late_rate(evidence)
    if unit == "step" and _count(evidence.row_to_end()[0]) > 0:
        return  # Several ways even without a step, as between both directions: steps are no distance.
    extent = evidence.num_steps if unit == "step" else evidence.num_layers
    noise = max(DRIFT_DECADES[0], NUM_ERRORS * (evidence.growth.std_error or 0.0))
    left = BAND_DECADES - math.copysign(1.0, rate) * _level(evidence.far)
    if abs(rate) * extent / 2 > noise and abs(rate) * 9 * extent > left:
        size = extent + math.ceil(left / abs(rate))
        yield f"Going on by {10**rate:.3f} per {unit}, it would leave that band at some {size} {unit}s."


def _level(point: GrowthPoint) -> float:
    """Measured growth, -inf for a gradient of zero."""
    return -math.inf if point.measured_log10 is None else point.measured_log10


def _count(point: GrowthPoint) -> float:
    return point.log10_num_paths or 0.0


def _trend_of(decades: float) -> _Trend:
    if abs(decades) <= BAND_DECADES:
        return "stays"
    return "grows" if decades > 0 else "fades"


def _local(point: GrowthPoint) -> float:
    """log10 of the rms norm of one path's product: growth less the number of paths and interference."""
    shared = 0.5 * (1.0 + (point.coherence or 0.0)) * _count(point)
    return _level(point) - shared


def _nonzero(line: Sequence[GrowthPoint]) -> list[GrowthPoint]:
    return [point for point in line if point.measured_log10 is not None]


def _way(point: GrowthPoint) -> str:
    """The way from a cell to the last one, in words."""
    steps = f"{point.dt} step{'s' * (point.dt != 1)}"
    layers = f"{point.dl} layer{'s' * (point.dl != 1)}"
    if point.dt and point.dl:
        return f"{steps} and {layers}"
    return layers if point.dl else steps


def _way_back(point: GrowthPoint) -> str:
    text = f"{_way(point)} before the end"
    return text[0].upper() + text[1:]


def _measured(point: GrowthPoint, evidence: _Evidence) -> str:
    error = evidence.growth.std_error
    shown = "" if error is None or point is not evidence.far else f" +- {error:.2f}"
    return f"{_level(point):+.2f}{shown} decades"


def _factor(decades: float) -> str:
    """10^decades for people."""
    if math.isinf(decades):
        return "0"
    return f"{10**decades:.3g}" if abs(decades) < 3 else f"10^{decades:.1f}"
