"""The audit, readable from top to bottom: load, find, run, compare, measure, judge."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import takewhile

import onnx
import torch

from lsc_graph.auditing.agreement import Agreement
from lsc_graph.auditing.batches import batch_entries
from lsc_graph.auditing.causal_readings import causal_readings
from lsc_graph.auditing.confirmed_meter import confirmed_meter
from lsc_graph.auditing.cuts import put_in
from lsc_graph.auditing.facts import bare_layers, input_facts, recurrences, tool
from lsc_graph.auditing.flat_steps import flat_steps, moving_parts
from lsc_graph.auditing.jumping import jumping
from lsc_graph.auditing.lengths import FittingSamples
from lsc_graph.auditing.measure import FeedForward, Sequences, Streaming, measured_model
from lsc_graph.auditing.rounds import DEFAULT_MAX_SAMPLES, Rounds
from lsc_graph.auditing.spreads import layer_spreads
from lsc_graph.auditing.stability import judge
from lsc_graph.auditing.warnings import (
    difference_warnings,
    growth_warnings,
    known_warnings,
    layer_warnings,
    measured_warnings,
)
from lsc_graph.counting.connect import connected_cells
from lsc_graph.counting.count import count_paths
from lsc_graph.counting.ends import first_ends, last_ends
from lsc_graph.counting.series import digits
from lsc_graph.errors import (
    AnalysisError,
    ConversionError,
    GradientError,
    LscGraphError,
    ParityError,
    TimeLimitError,
    UsageError,
)
from lsc_graph.grid.unroll import GridNode, united, unroll
from lsc_graph.jacobians.meter import GrowthMeter, cancelled_depths
from lsc_graph.jacobians.summary import Summary
from lsc_graph.layers.cells import CellGraph
from lsc_graph.layers.exposure import exposed_states
from lsc_graph.memory import memory_errors_named, out_of_memory
from lsc_graph.planning import Request
from lsc_graph.prepare import Prepared, is_streaming, prepare
from lsc_graph.results import (
    SCHEMA_VERSION,
    Analysis,
    BlackBoxFacts,
    Grid,
    Growth,
    Inspection,
    Judgement,
    LayerFacts,
)
from lsc_graph.running.deadline import until
from lsc_graph.running.reference import Array
from lsc_graph.running.sampling import Sample, make_samples, num_given, read_data
from lsc_graph.spectra.choose import method_of
from lsc_graph.spectra.estimate import Method
from lsc_graph.to_torch.device import device_of, whole_single_precision
from lsc_graph.to_torch.differences import Differences
from lsc_graph.to_torch.program import Run
from lsc_graph.to_torch.segment import BlackBoxUse
from lsc_graph.to_torch.surrogates import parse_surrogate

Source = str | os.PathLike[str] | bytes | onnx.ModelProto
Progress = Callable[[str, float], None]
MAX_INSPECTED_ELEMENTS = 2**22
"""Models with larger inputs are inspected without a run, which an audit takes."""


@whole_single_precision()
@memory_errors_named()
@torch.no_grad()
def audit(
    model: Source,
    *,
    num_steps: int | None = None,
    data: Mapping[str, Array] | str | os.PathLike[str] | None = None,
    inputs: Mapping[str, str] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    states: Sequence[tuple[str, str]] = (),
    time_axis: int | None = None,
    num_samples: int = 4,
    precision: float | None = None,
    max_samples: int = DEFAULT_MAX_SAMPLES,
    max_seconds: float | None = None,
    seed: int = 0,
    device: str = "auto",
    radius_method: str = "auto",
    black_box: str = "auto",
    surrogate: str | None = None,
    surrogate_dampening: float | None = None,
    surrogate_sharpness: float | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Analysis:
    """Whether a model's gradients survive its depth and time, and why.

    Args:
        model: path, bytes or ModelProto of an ONNX model.
        num_steps: T; by default 32, or what the model's fixed shapes imply.
        data: arrays by input name, or an .npz file of them; synthetic values otherwise. Leading axes
            beyond the input's own rank are samples, and time for a streamed input.
        inputs: fixed values by input name, as text: a number or a JSON list.
        input_shapes: shapes by input name.
        states: (input, output) pairs of a streaming model, where they are not found by themselves;
            ("none", "") alone says that the model has no state. For steps that were written out, pairs
            (value that a step takes over, value that it hands on), or (value that is no state, "none").
        time_axis: time in what layers without a cell put out, where several axes could be it.
        num_samples: how many samples to average over, at first.
        precision: add samples until the standard error of every layer's radii is at most this.
        max_samples: but no more samples than these.
        max_seconds: no sample that would not be over by this time is begun; a first one that is not is an
            error. By default there is no such time, but for a precision 300 seconds.
        seed: of synthetic data, cotangents and signs.
        device: "auto", "cpu" or "cuda".
        radius_method: the estimator of spectral radii: "auto", "dense", "squaring", "powers" or "arnoldi".
        black_box: "never" differentiates in torch alone; "always" runs everything in ONNX Runtime, with
            derivatives by finite differences; "auto" what has no torch counterpart, or disagrees.
        surrogate: what stands in for the derivative of thresholds between states: "fast-sigmoid", "triangle"
            or "exponential"; by default nothing does, and the gradient is cut there.
        surrogate_dampening, surrogate_sharpness: its value at the threshold, and its inverse width; the
            defaults are those of `lsc_graph.to_torch.surrogates.DEFAULTS`.
        progress: called as progress(stage, fraction done).

    Returns:
        The analysis. Every number in it was computed on a torch view that agrees with ONNX Runtime.

    Raises:
        UsageError: the request is wrong.
        AnalysisError: the model cannot be analysed; `ParityError` if the torch view disagrees.
    """
    say, clock = progress or (lambda stage, fraction: None), _Clock()
    method, where = method_of(radius_method), device_of(device)
    stand_in = parse_surrogate(surrogate, surrogate_dampening, surrogate_sharpness)
    _check_numbers(num_steps, num_samples)
    say("Loading and finding recurrences", 0.0)
    given = read_data(data) if data is not None else {}
    request = Request(num_steps, dict(inputs or {}), dict(input_shapes or {}), tuple(states), given)
    prepared = prepare(model, request)
    surrogates = put_in(prepared, stand_in) if stand_in is not None else None
    clock.lap("prepare")
    draw = partial(_samples, prepared, given, seed)
    num_samples, limit, told = _different(prepared, given, draw, num_samples)

    def measure(use: BlackBoxUse, is_double: bool) -> Analysis:
        most = min(max_samples, limit or max_samples)
        rounds = Rounds(precision, num_samples, most, max_seconds, clock.start)
        fitting = FittingSamples(prepared, draw, limit)
        model = partial(measured_model, prepared, where, black_box=use, is_double=is_double)
        return _measure(prepared, model, fitting, rounds, seed, time_axis, method, say, clock)

    found = _with_black_boxes(measure, black_box)
    return replace(found, surrogate=surrogates, warnings=(*told, *found.warnings))


def _measured(measure: Callable[[BlackBoxUse, bool], Analysis], use: BlackBoxUse) -> Analysis:
    """What was measured, in double precision where gradients agree in that alone: rounding made them differ.

    Raises:
        GradientError: they do not; the error is that of single precision.
    """
    try:
        return measure(use, False)
    except GradientError as error:
        if use is BlackBoxUse.ALWAYS:
            raise
        try:
            found = measure(use, True)
        except TimeLimitError:
            raise
        except LscGraphError as other:
            raise error from other
        words = (
            "torch ran in double precision: in single precision rounding decides over gradients "
            f"({error.where}: {error.got}; {error.expected})"
        )
        return replace(found, warnings=(words, *found.warnings))


def _different(
    prepared: Prepared,
    given: Mapping[str, Array],
    draw: Callable[[int, int], tuple[Sample, ...]],
    num_wanted: int,
) -> tuple[int, int | None, tuple[str, ...]]:
    """How many samples to begin with, and how many there are at most if data says so; and what to tell.

    Where data and values that were given leave nothing to draw, more samples than one tell nothing more.
    """
    limit = num_given(prepared.plan, given, is_streaming=is_streaming(prepared))
    if limit is not None:
        return num_wanted, limit, ()
    first, second = draw(0, 2)
    if not first.is_like(second):
        return num_wanted, None, ()
    words = "1 sample was measured, since all would be the same: data has no first axis that counts samples"
    return 1, 1, (words,) if num_wanted > 1 else ()


def _check_numbers(num_steps: int | None, num_samples: int) -> None:
    if num_samples < 1 or (num_steps is not None and num_steps < 1):
        raise UsageError("--steps and --samples must be at least 1", got=f"{num_steps}, {num_samples}")


def _with_black_boxes(measure: Callable[[BlackBoxUse, bool], Analysis], wanted: str) -> Analysis:
    """What was measured with torch, where that works; else with ONNX Runtime alone."""
    if wanted == "never":
        return _measured(measure, BlackBoxUse.NEVER)
    reason = "it was asked for"
    if wanted == "auto":
        try:
            return _measured(measure, BlackBoxUse.IF_NEEDED)
        except (ConversionError, ParityError) as error:
            if out_of_memory(error) is not None:
                raise
            reason = " ".join(str(error).split())
    analysis = _measured(measure, BlackBoxUse.ALWAYS)
    assert analysis.black_box is not None
    return replace(analysis, black_box=replace(analysis.black_box, reason=reason))


@memory_errors_named()
def inspect(
    model: Source,
    *,
    num_steps: int | None = None,
    inputs: Mapping[str, str] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    states: Sequence[tuple[str, str]] = (),
    time_axis: int | None = None,
) -> Inspection:
    """What `audit` would analyse, without measuring it: recurrences, layers, refused candidates.

    Of feed-forward models, one run shows which blocks are causal over time, and along which axes; of several
    recurrences, which of their times are connected.

    Arguments and errors are those of `audit`.
    """
    request = Request(num_steps, dict(inputs or {}), dict(input_shapes or {}), tuple(states), {})
    prepared = prepare(model, request)
    cells, are_times_seen, unconnected = _connected(prepared)
    sample = _samples(prepared, {}, 0, 0, 1)[0]
    causal, unseen = causal_readings(prepared, sample, time_axis)
    known = known_warnings(
        prepared, example=sample if _num_elements(prepared) <= MAX_INSPECTED_ELEMENTS else None
    )
    return Inspection(
        schema_version=SCHEMA_VERSION,
        tool=tool(),
        model=prepared.loaded.facts,
        inputs=input_facts(prepared),
        recurrences=recurrences(prepared),
        refusals=prepared.findings.refusals,
        layers=bare_layers(cells, are_times_seen=are_times_seen),
        causal=causal,
        grid=_grid(cells),
        warnings=(*known, *layer_warnings(prepared, cells), *unconnected, *unseen),
    )


def _connected(prepared: Prepared) -> tuple[CellGraph, bool, tuple[str, ...]]:
    """The cell graph, whether a run has shown which times of recurrences are connected, and if not, why."""
    cells = prepared.cell_graph
    if len(prepared.findings.sites) < 2 or not cells.has_one_length:
        return cells, False, ()
    size = _num_elements(prepared)
    reason = f"its inputs have {size:,} elements, which only an audit runs"
    if size <= MAX_INSPECTED_ELEMENTS:
        try:
            return connected_cells(prepared).cells, True, ()
        except AnalysisError as error:
            reason = " ".join(str(error).split())
    return cells, False, (f"when recurrences read each other is assumed, not seen in a run: {reason}",)


def _num_elements(prepared: Prepared) -> int:
    """Of all inputs together."""
    return sum(math.prod(shape) for shape in prepared.plan.shapes.values())


class _Clock:
    """Seconds spent in each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.start = self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
        self.seconds["total"] = now - self.start


def _measure(
    prepared: Prepared,
    view: Callable[..., Sequences | Streaming | FeedForward],
    fitting: FittingSamples,
    rounds: Rounds,
    seed: int,
    time_axis: int | None,
    method: Method,
    say: Progress,
    clock: _Clock,
) -> Analysis:
    generator = torch.Generator().manual_seed(seed)
    say("Converting to torch", 0.1)
    model = view(generator=generator)
    clock.lap("convert")
    agreement = Agreement(model)
    summary = Summary(exposed_states(prepared.findings, [*filter(None, prepared.cells)]), time_axis, method)
    meter: GrowthMeter | None = None
    cells = prepared.cell_graph
    samples: list[Sample] = []
    while rounds.next:
        new = fitting.next(rounds.next)
        say("Comparing with ONNX Runtime", 0.2)
        # One after another: the trajectories of all samples at once may be larger than anything else.
        total = len(samples) + len(new)
        for number, sample in enumerate(takewhile(lambda _: rounds.begin(), new), len(samples) + 1):
            with until(rounds.deadline if meter is None else None):
                run = agreement.run(sample)
                clock.lap("parity")
                if meter is None:
                    summary.entries = batch_entries(prepared, model, sample, run)
                _say_sample(say, number, total, model.parameters.differences, rounds.deadline)
                found, edges = model.edges(sample, run, summary)
                clock.lap("jacobians")
                if meter is None:
                    cells = found
                    _see_cuts(model, sample, run, summary)
                    meter = confirmed_meter(model, sample, run, cells, edges, summary, generator, seed)
                elif (more := united(cells, found)) is not cells:
                    cells = more
                    meter.regard(cells, unroll(cells))
                meter.add(edges)
            samples.append(sample)
            clock.lap("growth")
            del run, edges
        if meter is None:
            raise _no_sample(fitting)
        rounds.note(summary.layers(cells), len(samples) - total + len(new))
    assert meter is not None
    say("Judging", 0.95)
    layers, radii, precision = summary.layers(cells), summary.outcomes(), rounds.result()
    growth = meter.growth(EdgeFactors(layers))
    differences = model.parameters.differences
    known = measured_warnings(prepared, samples, summary, radii, precision)
    warnings = (*known, *difference_warnings(differences), *rounds.warnings)
    analysis = Analysis(
        schema_version=SCHEMA_VERSION,
        tool=tool(),
        model=prepared.loaded.facts,
        inputs=input_facts(prepared),
        parity=agreement.check.result(model.reference.provider),
        recurrences=recurrences(prepared),
        refusals=prepared.findings.refusals,
        layers=layers,
        radii=radii,
        spread=layer_spreads(layers),
        precision=precision,
        surrogate=None,
        black_box=_black_box_facts(differences),
        time_parallel=summary.causal.facts(),
        grid=_grid(cells),
        growth=growth,
        verdict=_verdict(growth, layers, cells),
        warnings=(*warnings, *meter.remarks, *growth_warnings(prepared, growth, cells), *fitting.warnings),
        timing_seconds=clock.seconds,
    )
    clock.lap("judge")
    say("Done", 1.0)
    return analysis


def _say_sample(
    say: Progress, number: int, total: int, differences: Differences, deadline: float | None
) -> None:
    """Which sample's Jacobians are computed; differences take long, so after how many runs, too.

    Once there is a sample to report, one that has begun is not given up.
    """
    differences.forget()
    differences.deadline = deadline if number == 1 else None
    stage, done = f"Local Jacobians, sample {number} of {total}", 0.3 + 0.6 * (number - 1) / total
    say(stage, done)
    differences.progress = lambda num_runs: say(f"{stage}: {num_runs:,} runs of ONNX Runtime", done)


def _see_cuts(model: Sequences | Streaming | FeedForward, sample: Sample, run: Run, summary: Summary) -> None:
    """Note where states change values by more than derivatives tell."""
    parts = moving_parts(model.program, run, model.feed(sample)[0])
    summary.flat = flat_steps(parts)
    summary.jumping = jumping(parts, summary.flat)


def _no_sample(fitting: FittingSamples) -> AnalysisError:
    return AnalysisError(
        "No sample runs a loop that the data may end for as many steps as the recurrences were found with",
        got="; ".join(fitting.warnings),
        do="give samples of one length with --data",
    )


def _black_box_facts(found: Differences) -> BlackBoxFacts | None:
    if not found.parts:
        return None
    return BlackBoxFacts(
        reason="; ".join(dict.fromkeys(found.reasons)) or "it was asked for",
        parts=tuple(dict.fromkeys(found.parts)),
        precision="float64" if found.has_double else "float32",
        max_relative_error=max(found.errors, default=0.0),
        num_runs=found.num_runs,
    )


class EdgeFactors:
    """The mean radius of an edge between grid nodes; the gain where there is no radius, or if asked for."""

    def __init__(self, layers: Sequence[LayerFacts], with_gains: bool = False) -> None:
        self.time = {
            layer.id: value.mean
            for layer in layers
            if (value := layer.time_gain if with_gains else layer.time_radius or layer.time_gain)
        }
        self.depth = {
            (edge.source, layer.id): (edge.gain if with_gains else edge.radius or edge.gain).mean
            for layer in layers
            for edge in layer.depth_edges
        }

    def __call__(self, tail: GridNode, head: GridNode) -> float:
        return self.time[head.layer] if tail.layer == head.layer else self.depth[tail.layer, head.layer]


def _verdict(growth: Growth, layers: Sequence[LayerFacts], cells: CellGraph) -> Judgement:
    factors = EdgeFactors(layers)
    silent = cancelled_depths(growth.table)
    heard = tuple(point for point in growth.table if point.dl not in silent)
    return judge(
        growth=replace(growth, table=heard or growth.table),
        time_factors=tuple(factors.time.values()),
        depth_factors=tuple(factors.depth.values()),
        num_layers=len(layers),
        num_steps=cells.num_steps,
    )


def _samples(
    prepared: Prepared, data: Mapping[str, Array], seed: int, first: int, num_samples: int
) -> tuple[Sample, ...]:
    streaming = is_streaming(prepared)
    carried = [carry.before for carry in prepared.findings.carried]
    return make_samples(
        prepared.plan,
        data=data,
        fixed=prepared.fixed,
        domains=prepared.domains,
        carried=carried,
        num_steps=prepared.cell_graph.num_steps if streaming else None,
        num_samples=num_samples,
        seed=seed,
        first=first,
    )


def _grid(cells: CellGraph) -> Grid:
    found = count_paths(cells, cells.num_steps, first_ends(cells), last_ends(cells))
    return Grid(len(cells.layers), cells.num_steps, digits(found.exact or 0), found.log10)
