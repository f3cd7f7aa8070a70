"""A pre-trained model as a file: fit, write, audit what was written; only then the file appears."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from onnx import ModelProto

from lsc_graph.audit_model import Source, audit
from lsc_graph.errors import UsageError, VerificationError
from lsc_graph.model_file.load import load
from lsc_graph.pretrain_results import PretrainReport, Radius, RadiusChange
from lsc_graph.pretraining.checkpoint import remove
from lsc_graph.pretraining.pretrain_model import pretrain
from lsc_graph.pretraining.problem import silent
from lsc_graph.pretraining.shards import rank
from lsc_graph.results import LayerFacts, Statistics
from lsc_graph.writeback import weights_file
from lsc_graph.writeback.apart import check_apart
from lsc_graph.writeback.weights import check_target, written

_AUDIT_SEED = 3_000_017
# Samples of an audit; more of them where the first ones contradict what is claimed, as few may do by chance.
_AUDIT_SAMPLES = (4, 16, 64)
_AUDITED = ("num_steps", "data", "inputs", "input_shapes", "states", "device")
_SURROGATE = ("surrogate", "surrogate_dampening", "surrogate_sharpness")


def pretrain_file(
    model: Source,
    output: str | os.PathLike[str],
    *,
    in_place: bool = False,
    save_weights: str | os.PathLike[str] | None = None,
    **options: Any,
) -> PretrainReport:
    """Pre-train a model and write it with new weights; everything else in the file stays as it was.

    Args:
        model: as in `pretrain`.
        output: the file to write; it appears whole, and only if it passes an audit with fresh data.
        in_place: whether `output` may be the model itself.
        save_weights: a .safetensors file for the trained tensors, by their names in the file.
        options: those of `pretrain`.

    Returns:
        The report, with the radii that an audit of the written file found. Of the processes of a torchrun
        group only the first one writes and audits.

    Raises:
        UsageError: the request is wrong, or the file cannot be written.
        AnalysisError: as `pretrain`; `VerificationError` if the written file is not what it should be.
    """
    check_target(model, Path(output), in_place)
    if save_weights is not None:
        weights_file.saver()
        if not Path(save_weights).parent.is_dir():
            raise UsageError("There is no such folder to write to", where=str(Path(save_weights).parent))
    checkpoint = options.get("checkpoint")
    check_apart(
        {
            "the model": None if isinstance(model, bytes | ModelProto) else model,
            "--data": options.get("data"),
        },
        {"--output": output, "--save-weights": save_weights, "--checkpoint": checkpoint},
    )
    # A fit is worth keeping until what it was for stands in its place.
    found = pretrain(model, keep_checkpoint=True, **options)
    chosen = {name: options[name] for name in (*_AUDITED, *_SURROGATE) if name in options}
    note = provenance(found.report)
    if rank() != 0:
        return found.report
    say: Callable[[str], None] = options.get("stage") or silent
    say("Writing the model, and running what was written")
    chosen["progress"] = lambda text, _: say(f"Audit of the written file: {text}")
    with written(model, Path(output), found.values, note, is_in_place_allowed=in_place) as temporary:
        found.check_written(load(temporary).proto)
        report = audited(temporary, found.report, chosen, found.num_given)
    if save_weights is not None:
        weights_file.save_weights(save_weights, output, list(found.named))
    if checkpoint is not None:
        remove(checkpoint)
    return report


def provenance(report: PretrainReport) -> dict[str, Any]:
    """What the written file says about its own weights."""
    return {
        "tool": asdict(report.tool),
        "method": report.method,
        "target_time": report.target_time,
        "target_depth": report.target_depth,
        "surrogate": None if report.surrogate is None else asdict(report.surrogate),
        "seed": report.seed,
        "data_digest": report.data_digest,
        "radii": [
            {
                "layer": c.name,
                "source": c.source,
                "kind": c.kind,
                "target": c.target,
                "before": round(c.before.mean, 6),
                "after": round(c.after.mean, 6),
            }
            for c in report.radii
        ],
    }


def audited(
    path: Path, report: PretrainReport, options: Mapping[str, Any], most: int | None = None
) -> PretrainReport:
    """The report with radii from an audit of a written file with fresh data, of `most` samples at most.

    Raises:
        VerificationError: the file's radii are not those that were fitted.
        AnalysisError: the file cannot be analysed.
    """
    radii = report.radii
    counts = dict.fromkeys(min(count, most or count) for count in _AUDIT_SAMPLES)
    for number, num_samples in enumerate(counts):
        analysis = audit(path, seed=report.seed + _AUDIT_SEED + number, num_samples=num_samples, **options)
        layers = {layer.id: layer for layer in analysis.layers}
        radii = tuple(replace(c, written=_radius(layers[c.layer], c)) for c in report.radii)
        if not any(_contradicts(c, report.tolerance) or _differs(c, report.tolerance) for c in radii):
            break
    for change in radii:
        _check(change, report.tolerance)
    radii = tuple(_corrected(change, report.tolerance) for change in radii)
    return replace(report, radii=radii, is_reached=all(change.is_reached for change in radii))


def _contradicts(change: RadiusChange, tolerance: float) -> bool:
    """Whether the audit says that a radius is not at its target, though the fit's points say it is."""
    found = change.written
    if found is None or not change.is_reached:
        return False
    return not abs(found.mean - change.target) <= tolerance + 2 * found.std_error


def _corrected(change: RadiusChange, tolerance: float) -> RadiusChange:
    """What fresh points contradict is not claimed."""
    if change.written is None or not _contradicts(change, tolerance):
        return change
    reason = (
        f"{change.after.mean:.3f} (± {change.after.std_error:.3f}) at {change.after.num_points} points, but"
        f" an audit of the written file found {change.written.mean:.3f} (± {change.written.std_error:.3f}) at"
        f" {change.written.num_points} others: the radius scatters too much to be known to the tolerance"
    )
    return replace(change, is_reached=False, reason=reason)


def _radius(layer: LayerFacts, change: RadiusChange) -> Radius | None:
    if change.kind == "time":
        return _as_radius(layer.time_radius)
    edges = {edge.source: edge for edge in layer.depth_edges}
    if change.source not in edges:
        return None
    edge = edges[change.source]
    return _as_radius(edge.gain if change.quantity == "gain" else edge.radius)


def _as_radius(found: Statistics | None) -> Radius | None:
    return None if found is None else Radius(found.mean, found.std_error, found.num_points)


def _differs(change: RadiusChange, tolerance: float) -> bool:
    """Whether the audit's mean differs from the fit's by more than the noise of both."""
    if change.written is None:
        return False
    # Points of one sample are not independent: the audit's own error is too small by an unknown factor.
    noise = 4 * (change.written.std_error + change.after.std_error)
    return not abs(change.written.mean - change.after.mean) <= tolerance + noise


def _check(change: RadiusChange, tolerance: float) -> None:
    """The written model must have the radii that were fitted."""
    if change.written is None:
        raise VerificationError(
            "A radius of the written model was not measured", where=f"{change.name}, in {change.kind}"
        )
    if _differs(change, tolerance):
        raise VerificationError(
            "The written model's radius is not the one that was fitted",
            where=f"{change.name}, in {change.kind}",
            got=f"{change.written.mean:.4f}",
            expected=f"{change.after.mean:.4f}",
            do="give more --data, or another --seed",
        )
