"""Growth predictors against measured growth: every model of the zoo, at default weights and at target radii.

Run as `python benchmarks/predictors.py [MODEL[:TARGET] ...]`; prints a table and writes
benchmarks/results/predictors.json, keeping the rows that were not run again. Each row takes samples, in
doubling numbers, until what is measured is known to some tenths of a decade: nothing can be predicted better
than that. What the samples leave open of the best rule's mean error stands beside it, by the bootstrap.
"""

from __future__ import annotations

import json
import math
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from lsc_graph.models import registry

from lsc_graph.audit_model import EdgeFactors
from lsc_graph.auditing.measure import FeedForward, Sequences, Streaming, measured_model
from lsc_graph.errors import AnalysisError
from lsc_graph.grid.unroll import unroll
from lsc_graph.jacobians.grid import EdgeMap
from lsc_graph.jacobians.meter import GrowthMeter
from lsc_graph.jacobians.predictions import Predictions
from lsc_graph.jacobians.predictors import MEAN_RUN, RULES
from lsc_graph.jacobians.summary import Summary
from lsc_graph.layers.cells import CellGraph
from lsc_graph.layers.exposure import exposed_states
from lsc_graph.planning import Request
from lsc_graph.prepare import Prepared, is_streaming, prepare
from lsc_graph.pretraining.pretrain_model import pretrain
from lsc_graph.results import GrowthPoint
from lsc_graph.running.sampling import Sample, make_samples
from lsc_graph.writeback.weights import with_values

RESULTS = Path(__file__).parent / "results" / "predictors.json"
WIDTH, NUM_STEPS, NUM_COTANGENTS = 64, 201, 32
# Samples at first and at most, and the standard error of log10 of the measured growth that is enough.
NUM_SAMPLES, MAX_SAMPLES, PRECISION = 4, 32, 0.3
BEST, NUM_BOOTSTRAPS = "resampled_runs, all points", 200
FIT_STEPS, TOLERANCE, MAX_ITERATIONS = 64, 0.03, 25
TARGETS = (None, 0.5, 0.7071, 1.0)
RANGES = {"dt <= 20": (0, 20), "dt 21..200": (21, 200)}
# The same network as `gru`, written otherwise: looked at once, and not unrolled 200 times.
SAME_NETWORK = ("streaming_gru", "scan_gru", "loop_gru", "unrolled_gru")
SHORT = {"unrolled_gru": 33}
EVERY = 10**6
VARIANTS: dict[str, tuple[Any, ...]] = {f"{name}, 64 points": (name, 64, None) for name in RULES} | {
    "resampled, all points": ("resampled", EVERY, None),
    "resampled, first 32 steps": ("resampled", EVERY, 32),
    "resampled_runs, all points": ("resampled_runs", EVERY, None),
    "resampled_runs, 64 points": ("resampled_runs", 64, None, MEAN_RUN),
}


def samples_of(prepared: Prepared, seed: int, count: int) -> tuple[Sample, ...]:
    """Synthetic samples of a prepared model."""
    return make_samples(
        prepared.plan,
        data={},
        fixed=prepared.fixed,
        domains=prepared.domains,
        carried=[carry.before for carry in prepared.findings.carried],
        num_steps=prepared.cell_graph.num_steps if is_streaming(prepared) else None,
        num_samples=count,
        seed=seed,
    )


def build(name: str) -> onnx.ModelProto:
    """The model of the zoo at the benchmark's width."""
    options: dict[str, object] = {"hidden_size": WIDTH} if "hidden_size" in registry.options_of(name) else {}
    if "num_steps" in registry.options_of(name):
        options["num_steps"] = SHORT.get(name, NUM_STEPS)
    return registry.build(name, **options)


def view(
    proto: onnx.ModelProto, num_steps: int | None
) -> tuple[Prepared, Sequences | Streaming | FeedForward]:
    """The torch view of a model over so many steps, or as many as its file fixes."""
    prepared = prepare(proto, Request(None, {}, {}, (), {}))
    if num_steps and not prepared.chain and not fixes_steps(prepared):
        prepared = prepare(proto, Request(num_steps, {}, {}, (), {}))
    model = measured_model(prepared, "cpu", torch.Generator().manual_seed(0))
    assert isinstance(model, Sequences | Streaming | FeedForward)
    return prepared, model


def fixes_steps(prepared: Prepared) -> bool:
    """Whether the file itself says how many steps there are, or has none."""
    return prepared.chain is not None or any(
        site.form.value == "unrolled" for site in prepared.findings.sites
    )


def at_target(proto: onnx.ModelProto, target: float) -> tuple[onnx.ModelProto, bool]:
    """The model, its weights rescaled until every radius is at the target, and whether they all are."""
    fixed = fixes_steps(prepare(proto, Request(None, {}, {}, (), {})))
    fit = pretrain(
        proto,
        target_time=target,
        target_depth=target,
        tolerance=TOLERANCE,
        max_iterations=MAX_ITERATIONS,
        num_steps=None if fixed else FIT_STEPS,
        device="cpu",
    )
    return with_values(proto, fit.values), fit.report.is_reached


def row(name: str, proto: onnx.ModelProto, target: float | None) -> dict[str, object]:
    """Errors of all predictors on one model."""
    start = time.perf_counter()
    reached = True
    if target is not None:
        proto, reached = at_target(proto, target)
    prepared, model = view(proto, NUM_STEPS)
    generator = torch.Generator().manual_seed(1)
    summary = Summary(exposed_states(prepared.findings, [own for own in prepared.cells if own]))
    others = {label: Predictions([rule], *points) for label, (rule, *points) in VARIANTS.items()}
    meter: GrowthMeter | None = None
    singles: list[Single] = []
    with torch.no_grad():
        for count, sample in enumerate(samples_of(prepared, 0, MAX_SAMPLES), 1):
            cells, edges = model.edges(sample, model.run(sample), summary)
            meter = meter or GrowthMeter(cells, unroll(cells), generator)
            meter.sweep(edges, NUM_COTANGENTS, None)
            if cells.num_steps > 2:
                for prediction in others.values():
                    prediction.add(edges, meter.order, meter.random_start(NUM_COTANGENTS), generator)
                singles.append(single(cells, edges, summary, generator))
            layers = summary.layers(cells)
            if count >= NUM_SAMPLES and count & (count - 1) == 0:
                growth = meter.growth(EdgeFactors(layers))
                if (growth.std_error or 0.0) <= PRECISION:
                    break
    assert meter is not None
    by_radius = growth.table
    by_gain = meter.growth(EdgeFactors(layers, with_gains=True)).table
    return {
        "model": name,
        "target": target,
        "is_target_reached": reached,
        "num_steps": cells.num_steps,
        "time_radius": [round(own.time_radius.mean, 3) for own in layers if own.time_radius],
        "depth_radius": [round((e.radius or e.gain).mean, 3) for own in layers for e in own.depth_edges],
        "num_samples": count,
        "measured_std_error": growth.std_error and round(growth.std_error, 3),
        "error_bars": {words: bar(singles, *limits) for words, limits in RANGES.items()} if singles else {},
        "errors": dict(errors(meter, by_radius, by_gain, others)),
        "seconds": round(time.perf_counter() - start, 1),
    }


Single = dict[tuple[int, int], tuple[float, float]]
"""Of one sample log10 of the measured growth and of what the best rule predicts, by (dl, dt)."""


def single(
    cells: CellGraph, edges: Sequence[EdgeMap], summary: Summary, generator: torch.Generator
) -> Single:
    """One sample alone."""
    meter = GrowthMeter(cells, unroll(cells), generator)
    meter.sweep(edges, NUM_COTANGENTS, None)
    rule, *points = VARIANTS[BEST]
    predictions = Predictions([rule], *points)
    predictions.add(edges, meter.order, meter.random_start(NUM_COTANGENTS), generator)
    nodes = meter.cells_by_lag()
    table = meter.growth(EdgeFactors(summary.layers(cells))).table
    found = {(p.dl, p.dt): (p.measured_log10, predictions.log10(rule, nodes[p.dl, p.dt])) for p in table}
    return {key: (a, b) for key, (a, b) in found.items() if a is not None and b is not None}


def bar(singles: Sequence[Single], low: int, high: int) -> float | None:
    """Standard deviation of the best rule's mean error over samples drawn again from these."""
    keys = [key for key in singles[0] if low <= key[1] <= high and all(key in own for own in singles)]
    if not keys:
        return None
    values = torch.tensor([[own[key] for key in keys] for own in singles], dtype=torch.float64)
    top = values.amax((0, 2))[:, None]
    squares = torch.pow(10.0, 2 * (values - top))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, len(singles), (NUM_BOOTSTRAPS, len(singles)), generator=generator)
    logs = squares[drawn].mean(1).log10() / 2
    return round(float((logs[..., 1] - logs[..., 0]).abs().mean(1).std()), 3)


def errors(
    meter: GrowthMeter,
    by_radius: Sequence[GrowthPoint],
    by_gain: Sequence[GrowthPoint],
    others: dict[str, Predictions],
) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """Mean and greatest |log10 predicted - log10 measured| of each predictor, by range of dt."""
    cells = meter.cells_by_lag()
    predicted: dict[str, list[float | None]] = {
        "coherent, radius": [p.coherent_log10 for p in by_radius],
        "incoherent, radius": [p.incoherent_log10 for p in by_radius],
        "coherent, gain": [p.coherent_log10 for p in by_gain],
        "incoherent, gain": [p.incoherent_log10 for p in by_gain],
    }
    for label, own in others.items():
        predicted[label] = [own.log10(VARIANTS[label][0], cells[p.dl, p.dt]) for p in by_radius]
    for label, values in predicted.items():
        found = {}
        for words, (low, high) in RANGES.items():
            gaps = [
                abs(value - point.measured_log10)
                for value, point in zip(values, by_radius, strict=True)
                if low <= point.dt <= high and value is not None and point.measured_log10 is not None
            ]
            if gaps:
                found[words] = [round(math.fsum(gaps) / len(gaps), 3), round(max(gaps), 3)]
        if found:
            yield label, found


def main(given: Sequence[str]) -> None:
    """Run the models, and write the table."""
    rows: list[dict[str, object]] = []
    for name, _, only in (words.partition(":") for words in given):
        targets = TARGETS[:1] if name in SAME_NETWORK else TARGETS
        for target in (float(only),) if only else targets:
            try:
                rows.append(row(name, build(name), target))
            except AnalysisError as error:
                rows.append({"model": name, "target": target, "refused": str(error)})
            print(json.dumps(rows[-1]), flush=True)
            write(rows)


def write(rows: Sequence[dict[str, object]]) -> None:
    """The table with what it was made by, and all other rows as they were."""
    before = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    new = {(own["model"], own["target"]) for own in rows}
    rows = [*(own for own in before if (own["model"], own["target"]) not in new), *rows]
    rows.sort(key=lambda own: (registry.names().index(str(own["model"])), str(own["target"] or "")))
    setting = {
        "machine": platform.machine(),
        "torch": torch.__version__,
        "width": WIDTH,
        "num_samples": f"{NUM_SAMPLES} where a row does not say it",
        "error_bars": f"of the mean errors of {BEST}",
        "measured_std_error": "of log10 measured at the farthest cell, over samples",
        "errors": "[mean, greatest] |log10 predicted - log10 measured| over (dl, dt)",
    }
    RESULTS.write_text(json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:] or registry.names())
