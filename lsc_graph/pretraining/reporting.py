"""The report of a fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version

from lsc_graph.pretrain_results import (
    PRETRAIN_SCHEMA_VERSION,
    LeftOut,
    PretrainReport,
    Radius,
    RadiusChange,
)
from lsc_graph.pretraining.fit import Fit
from lsc_graph.pretraining.job import Job
from lsc_graph.pretraining.reading import Edge, Reading
from lsc_graph.pretraining.targets import Targets, Wish
from lsc_graph.results import Tool

Readings = Mapping[Edge, Reading]
# The balanced target of gradients that are fully coherent.
_COHERENT = 0.5


def report_of(
    job: Job, wish: Wish, method: str, before: Readings, after: Readings, fit: Fit, seconds: float
) -> PretrainReport:
    """Everything in numbers."""
    radii = tuple(_change(job, edge, before[edge], after[edge], fit) for edge in after)
    left_out, found = job.choice.left_out.items(), job.prepared.findings
    return PretrainReport(
        schema_version=PRETRAIN_SCHEMA_VERSION,
        tool=Tool("lsc-graph", version("lsc-graph")),
        model=job.prepared.loaded.facts,
        method=method,
        target_time=job.targets.time,
        target_depth=job.targets.depth,
        tolerance=job.problem.tolerance,
        num_steps=job.prepared.cell_graph.num_steps,
        surrogate=job.surrogate,
        radii=radii,
        trained=(
            *(weight.label for weight in job.choice.weights),
            *("/".join(origin) for origin in job.copies),
        ),
        left_out=tuple(LeftOut(tensor, reason) for tensor, reason in left_out),
        iterations=fit.iterations,
        is_reached=all(change.is_reached for change in radii),
        stop_reason=fit.stop_reason,
        seconds=seconds,
        seed=job.problem.seed,
        data_digest=job.points.digest(job.problem.seed),
        warnings=(*_without_effect(wish, job.targets), *found.choices, *found.warnings, *found.doubts),
    )


def _without_effect(wish: Wish, targets: Targets) -> Iterator[str]:
    """What of a wish changes nothing in this model."""
    kinds = {"time" if source == target else "depth" for source, target in targets.of_edge}
    for kind, value in (("time", wish.time), ("depth", wish.depth)):
        if value is not None and kind not in kinds:
            yield f"A target of {value:g} in {kind} changes nothing: the model has no radius in {kind}"
    if wish.name == "auto" and "time" in kinds and wish.time is None and targets.time == _COHERENT:
        yield (
            f"`auto` takes {_COHERENT}: gradients are fully coherent, or, as an audit says, their coherence"
            " could not be measured"
        )


def _change(job: Job, edge: Edge, before: Reading, after: Reading, fit: Fit) -> RadiusChange:
    source, layer = edge
    target = job.targets.of_edge[edge]
    tolerance = job.problem.tolerance
    is_near = abs(after.mean - target) <= tolerance + 2 * after.std_error
    # A mean that is hardly known is near to everything.
    is_known = after.std_error <= tolerance
    reason = fit.reasons.get(edge, fit.stop_reason) if is_known else _uncertain(after)
    is_reached = is_near and is_known
    return RadiusChange(
        layer=layer,
        name=job.problem.reader.layers[layer].name,
        source=source,
        kind=after.kind.value,
        quantity="spectral radius" if after.is_radius else "gain",
        target=target,
        before=_radius(before),
        after=_radius(after),
        is_reached=is_reached,
        reason=None if is_reached else reason,
    )


def _uncertain(reading: Reading) -> str:
    """Why nothing can be said of a radius."""
    count = reading.values.numel()
    return f"its mean over {count} points is known to {reading.std_error:.3f} only: it scatters too much"


def _radius(reading: Reading) -> Radius:
    return Radius(reading.mean, reading.std_error, reading.values.numel())
