"""The reasons of a verdict, in words and numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lsc_graph.auditing.evidence import (
    BAND_DECADES,
    CRITICAL,
    DRIFT_DECADES,
    FEW_STEPS,
    NUM_ERRORS,
    Evidence,
    below_from,
    count,
    is_below,
    late_rate,
    level,
    local,
    trend_of,
)
from lsc_graph.results import GrowthPoint, Verdict


def too_noisy(evidence: Evidence) -> str:
    low, _, high = evidence.trends
    point = evidence.peak if high == "grows" else evidence.end
    error = f"{evidence.growth.std_error or 0.0:.2f} decades"
    words = {"grows": "grows too much", "fades": "fades", "stays": "is kept"}
    return (
        f"Over {way(point)} the gradient changes by {measured(point, evidence)}, too close to a factor "
        f"of 10: {NUM_ERRORS:g} standard errors ({error} each) lower it "
        f"{words[low]}, as many higher it {words[high]}. More samples would decide."
    )


def vanishing(evidence: Evidence) -> Iterator[str]:
    end, far, since = evidence.end, evidence.far, way(below_from(evidence))
    if end.measured_log10 is None:
        yield (
            f"{way_back(end)} the gradient is exactly zero, but not everywhere: it is cut rather than "
            f"fading, by thresholds or by dead or saturated units; below a tenth from {since} on."
        )
    else:
        yield (
            f"Over {way(end)} the gradient shrinks by a factor of {factor(-level(end))} "
            f"({measured(end, evidence)}); below a tenth from {since} on."
        )
    rate, unit = late_rate(evidence)
    if rate < 0 and end.measured_log10 is not None:
        yield (
            f"In the farther half it keeps a factor of {10**rate:.3f} per {unit}: "
            f"a half-life of {math.log10(2.0) / -rate:.1f} {unit}s."
        )
    if end is not far:
        yield (
            f"Over {way(far)} it is back at {measured(far, evidence)}, by a shorter way, as through the "
            "other direction of a bidirectional layer."
        )


def staying(evidence: Evidence) -> Iterator[str]:
    far, least = evidence.far, min(evidence.points, key=level)
    yield (
        f"Over {way(far)} the gradient changes by a factor of {factor(level(far))} "
        f"({measured(far, evidence)}): within a factor of 10, and nowhere does it grow beyond."
    )
    if is_below(least):
        size = "zero" if least.measured_log10 is None else f"smaller by a factor of {factor(-level(least))}"
        yield f"Not every cell is reached as well: over {way(least)} it is {size}."


def split(point: GrowthPoint) -> Iterator[str]:
    """The three factors of the growth to a cell (theory section 4), in words."""
    if point.measured_log10 is None or point.log10_num_paths is None:
        return
    per_edge = f"a factor of {10 ** (local(point) / (point.dt + point.dl)):.3f} per edge"
    if point.log10_num_paths <= 0:
        yield f"A single path leads over {way(point)}: the local Jacobians alone decide, {per_edge}."
    if point.log10_num_paths <= 0 or point.coherence is None:
        return
    half = 0.5 * point.log10_num_paths
    parts = {
        "the number of paths": half,
        f"the local Jacobians along a path ({per_edge})": local(point),
        f"how the paths interfere (coherence {point.coherence:.2f})": point.coherence * half,
    }
    towards = math.copysign(1.0, point.measured_log10)
    cause = max(parts, key=lambda name: towards * parts[name])
    listed = ", ".join(f"{decades:+.2f} from {name}" for name, decades in parts.items())
    yield f"Of these {point.measured_log10:+.2f} decades, {listed}."
    yield f"The main cause is {cause.partition(' (')[0]}."


def about_index(evidence: Evidence, label: Verdict) -> Iterator[str]:
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
    elif predicted is not None and trend_of(predicted) == evidence.trends[1]:
        yield (
            f"{what}. It speaks of {subject}; over just {way(point)} the same mean factors predict "
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


def confidence(evidence: Evidence, label: Verdict) -> Iterator[str]:
    """What limits the confidence in the verdict."""
    if evidence.growth.std_error is None:
        yield "No standard error is known, from a single sample or with gradients of zero: give more samples."
    if label is not Verdict.STABLE:
        return
    if 1 < evidence.num_steps < FEW_STEPS:
        yield f"Only {evidence.num_steps} steps were measured: slow growth or decay would not show."
    yield from _outlook(evidence)


def _outlook(evidence: Evidence) -> Iterator[str]:
    """Where a stable gradient would leave the band, if that is within ten times the size."""
    rate, unit = late_rate(evidence)
    if unit == "step" and count(evidence.row_to_end()[0]) > 0:
        return  # Several ways even without a step, as between both directions: steps are no distance.
    extent = evidence.num_steps if unit == "step" else evidence.num_layers
    noise = max(DRIFT_DECADES[0], NUM_ERRORS * (evidence.growth.std_error or 0.0))
    left = BAND_DECADES - math.copysign(1.0, rate) * level(evidence.far)
    if abs(rate) * extent / 2 > noise and abs(rate) * 9 * extent > left:
        size = extent + math.ceil(left / abs(rate))
        yield f"Going on by {10**rate:.3f} per {unit}, it would leave that band at some {size} {unit}s."


def in_words(halves: tuple[float, float]) -> str:
    early, late = halves
    return f"{early:+.2f} decades in the first half of the steps and {late:+.2f} in the second"


def way(point: GrowthPoint) -> str:
    """The way from a cell to the last one, in words."""
    steps = f"{point.dt} step{'s' * (point.dt != 1)}"
    layers = f"{point.dl} layer{'s' * (point.dl != 1)}"
    if point.dt and point.dl:
        return f"{steps} and {layers}"
    return layers if point.dl else steps


def way_back(point: GrowthPoint) -> str:
    text = f"{way(point)} before the end"
    return text[0].upper() + text[1:]


def measured(point: GrowthPoint, evidence: Evidence) -> str:
    error = evidence.growth.std_error
    shown = "" if error is None or point is not evidence.far else f" +- {error:.2f}"
    return f"{level(point):+.2f}{shown} decades"


def factor(decades: float) -> str:
    """10^decades for people."""
    if math.isinf(decades):
        return "0"
    return f"{10**decades:.3g}" if abs(decades) < 3 else f"10^{decades:.1f}"
