"""What a report warns of: known before anything is measured, and shown by the measurement."""

from __future__ import annotations

from collections.abc import Sequence

from lsc_graph.auditing.alternatives import alternative_warnings
from lsc_graph.auditing.beside_chain import beside_chain
from lsc_graph.auditing.bypassed import bypassed_warnings
from lsc_graph.auditing.cuts import named, zero_derivatives
from lsc_graph.auditing.measure import HALF_TOLERANCE, quantization_error
from lsc_graph.auditing.outside import parts_outside
from lsc_graph.auditing.uneven_steps import uneven_steps
from lsc_graph.grid.unroll import depths
from lsc_graph.jacobians.meter import cancelled_depths
from lsc_graph.jacobians.summary import Summary
from lsc_graph.layers.cells import CellGraph
from lsc_graph.prepare import Prepared
from lsc_graph.results import Growth, Precision, RadiusOutcome
from lsc_graph.running.sampling import Sample
from lsc_graph.spectra.outcome import outcome_warnings
from lsc_graph.to_torch.differences import Differences
from lsc_graph.wording import few

# Where error bars are a larger part of a derivative than this, gains and growth are those of errors, too.
_WIDE = 0.1
_SHOWN = 3


def known_warnings(
    prepared: Prepared, samples: Sequence[Sample] = (), example: Sample | None = None
) -> tuple[str, ...]:
    """What is known of a model before it is measured.

    Args:
        prepared: the model.
        samples: those that were measured.
        example: what it may be run on; none where a run is too dear.
    """
    found = [
        *prepared.remarks,
        *prepared.findings.warnings,
        *parts_outside(prepared, example),
        *beside_chain(prepared),
        *alternative_warnings(prepared, samples),
    ]
    if prepared.dequantized and not samples:
        found.append(_quantized_words(prepared))
    found += [
        f"{refusal.candidate} is no layer of its own: {refusal.reason}"
        for refusal in prepared.findings.refusals
        if refusal.finder in ("loop", "scan")
    ]
    found += [
        f"{named(node)} has zero derivative: the gradient is cut there" for node in zero_derivatives(prepared)
    ]
    if prepared.is_half:
        found.append(
            f"16-bit model: run in float32 and compared within {HALF_TOLERANCE.atol:g} + "
            f"{HALF_TOLERANCE.rtol:g} |reference|"
        )
    return tuple(found)


def measured_warnings(
    prepared: Prepared,
    samples: Sequence[Sample],
    summary: Summary,
    radii: tuple[RadiusOutcome, ...],
    precision: Precision | None,
) -> tuple[str, ...]:
    """What was known before anything was measured, and what the measurement has shown."""
    warnings = known_warnings(prepared, samples, samples[0])
    known = {named(node) for node in zero_derivatives(prepared)}
    warnings += tuple(
        f"{own} changes with the states, but its derivative is zero wherever it was taken: the gradient is "
        "cut there, as by a threshold"
        for own in summary.flat
        if own not in known
    )
    warnings += tuple(
        f"{names[0]} jumps where the states pass a threshold, which its derivative leaves out: that part of "
        "the gradient is cut there"
        for names in summary.jumping
        if known.isdisjoint(names)
    )
    if summary.is_cut:
        warnings += (
            "Every local Jacobian is exactly zero: the gradient is cut, as by a threshold or a Sign",
        )
    warnings += (
        *_repeated_warnings(samples),
        *_batch_warnings(summary),
        *_held_warnings(summary),
        *_probed_warnings(summary),
        *summary.causal.warnings,
        *outcome_warnings(radii),
    )
    if precision is not None and not precision.is_reached:
        warnings += (_precision_warning(precision),)
    if prepared.dequantized:
        warnings += (_quantization_warning(prepared, samples[0]),)
    return warnings


def _repeated_warnings(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Samples that say nothing new, which standard errors do not know."""
    repeated = len(samples) - len({sample.digest for sample in samples})
    if not repeated:
        return ()
    return (
        f"{repeated} of the {len(samples)} samples are equal to others: standard errors count them as "
        "independent, and are too small; give each sample once (--data, --samples)",
    )


def _batch_warnings(summary: Summary) -> tuple[str, ...]:
    """That states are a batch, and where its entries could not be told apart."""
    if not summary.entries:
        return ()
    count = len(next(iter(summary.entries.values())))
    united = sorted(
        {source if source == target else f"{source} -> {target}" for source, target in summary.united}
    )
    if not united:
        words = "radii and gains are those of single entries"
        return (f"The states are a batch of {count} independent entries: {words}",)
    edges = ", ".join(united[:_SHOWN]) + (f" and {len(united) - _SHOWN} more" * (len(united) > _SHOWN))
    return (
        f"The states hold {count} entries, such as samples or positions, which the model treats alike: where "
        "those of the inputs change place, those of the states do. Radii and gains are those of single "
        f"entries, but not within or between {edges}: there entries are computed from each other, as by "
        f"attention or a mean over them, and radii and gains are those of all {count} together. If the "
        "entries are samples, audit one alone (--input-shape or --data with a batch of one); if they are "
        "positions of one sequence, this is what is to be measured",
    )


def _probed_warnings(summary: Summary) -> tuple[str, ...]:
    """How well gains are known that random products tell."""
    if not summary.probed:
        return ()
    (source, target), error = max(summary.probed.items(), key=lambda item: item[1])
    edge = source if source == target else f"{source} -> {target}"
    return (
        f"The gains of {len(summary.probed)} edge(s) are known by random products, those of single points "
        f"with a standard error of at most {100 * error:.1g} % ({edge}); the error of a mean holds it",
    )


def _held_warnings(summary: Summary) -> tuple[str, ...]:
    """Padded steps have a radius of 1, which says nothing of the cell."""
    return tuple(
        f"{held.layer_id}: at {held.num_held} of {held.num_points} points the state stays exactly as it is, "
        f"as in padded or skipped steps; the mean time radius of the others is {held.others:.3f}"
        for held in summary.held()
    )


def growth_warnings(prepared: Prepared, growth: Growth, cells: CellGraph) -> tuple[str, ...]:
    """What the growth from layer to layer says nothing of."""
    return (*layer_warnings(prepared, cells), *_cancelled_warnings(growth, cells))


def layer_warnings(prepared: Prepared, cells: CellGraph) -> tuple[str, ...]:
    """What the layers with all edges between them leave open."""
    return (*uneven_steps(prepared, cells), *bypassed_warnings(prepared, cells))


def _cancelled_warnings(growth: Growth, cells: CellGraph) -> tuple[str, ...]:
    """Layers whose value makes no difference, as those of stabilisers: growth from them says nothing."""
    depth = depths(cells)
    deepest, silent = max(depth.values(), default=0), cancelled_depths(growth.table)
    return tuple(
        f"{layer.id} ({layer.name}): the gradient from it cancels to rounding, as that of a stabiliser of "
        "exponentials does; the growth is that of the other layers"
        for layer in cells.layers
        if deepest - depth[layer.id] in silent
    )


def difference_warnings(found: Differences) -> tuple[str, ...]:
    """Derivatives that are hardly known: radii have bars of their own, but gains and growth have none."""
    wide = [own for own in found.errors if not own <= _WIDE]
    if not wide:
        return ()
    return (
        f"The error bars of {len(wide):,} of {len(found.errors):,} derivatives by finite differences are "
        f"more than {_WIDE:.0%} of the derivative itself (up to {max(wide):.1g} times it): gains and growth "
        "may be those of errors there",
    )


def _precision_warning(precision: Precision) -> str:
    is_known = precision.num_samples > 1 or precision.largest_std_error > 0
    error = f"{precision.largest_std_error:.2g}" if is_known else "unknown"
    return (
        f"The requested precision {precision.requested:g} was not reached: the standard error of "
        f"{precision.where} is {error} after {precision.num_samples} samples; "
        f"{precision.limit}"
    )


def _quantization_warning(prepared: Prepared, sample: Sample) -> str:
    error = quantization_error(prepared, sample)
    return (
        f"{_quantized_words(prepared)}; the quantised model's outputs differ from that by {error:.2g} at "
        "most, relative to the largest value"
    )


def _quantized_words(prepared: Prepared) -> str:
    names = prepared.dequantized
    return f"The model is quantised: {len(names)} weights or operators are audited as floats ({few(names)})"
