"""The report for people, on a terminal or as plain text."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lsc_graph.report.lines import labelled, title
from lsc_graph.report.plot import growth_plot
from lsc_graph.report.statistics_terminal import predictions, render_statistics
from lsc_graph.report.steps_terminal import step_lines
from lsc_graph.results import (
    Analysis,
    Axis,
    BlackBoxFacts,
    CausalReading,
    Grid,
    InputFacts,
    Inspection,
    LayerFacts,
    ModelFacts,
    Parity,
    RadiusOutcome,
    Recurrence,
    Refusal,
    Rerolling,
    Statistics,
    SurrogateFacts,
    TimeParallel,
    Verdict,
)
from lsc_graph.wording import few

MAX_LAYERS = 40
_MAX_TIMES = 4
# What is smaller would be zeros in three places.
_LEAST_IN_PLACES = 5e-4
_STYLES = {
    Verdict.STABLE: "bold green",
    Verdict.SUBEXPONENTIAL: "bold yellow",
    Verdict.EXPLODING: "bold red",
    Verdict.VANISHING: "bold red",
    Verdict.INCONCLUSIVE: "bold yellow",
}


def render(analysis: Analysis, console: Console) -> None:
    """Print an audit."""
    _header(analysis.model, console)
    _parity(analysis.parity, console)
    _inputs(analysis.inputs, console)
    _recurrences(analysis.recurrences, analysis.refusals, console)
    _layers(analysis.layers, console)
    _radii(analysis.radii, analysis.black_box, console)
    render_statistics(analysis, console)
    _surrogate(analysis.surrogate, console)
    _black_box(analysis.black_box, console)
    _time_parallel(analysis.time_parallel, console)
    _grid(analysis.grid, console)
    _growth(analysis, console)
    _verdict(analysis, console)
    _warnings(analysis.warnings, console)
    _next_steps(analysis, console)


def render_inspection(inspection: Inspection, console: Console, *, is_verbose: bool = False) -> None:
    """Print what was found, without measurements; every node of a step, if asked for."""
    _header(inspection.model, console)
    _inputs(inspection.inputs, console)
    _recurrences(
        inspection.recurrences, inspection.refusals, console, partial(step_lines, is_verbose=is_verbose)
    )
    _layers(inspection.layers, console)
    _causal(inspection.causal, console)
    _grid(inspection.grid, console)
    _warnings(inspection.warnings, console)


def render_rerolling(rerolling: Rerolling, console: Console) -> None:
    """Print what was rewritten, and how it was verified."""
    console.print(Text(rerolling.path or "model in memory", style="bold"))
    for own in rerolling.recurrences:
        direction = "over depth" if own.over_depth else "in reverse" if own.is_reverse else "forward"
        words = f"{own.num_steps} steps of {own.num_nodes} nodes, {direction}, are one Scan"
        chosen = f"; as chosen: {_options(own.chosen)}" if own.chosen else ""
        labelled(console, "rerolled", f"{own.name}: {words}; states {', '.join(own.states)}{chosen}")
        if own.apart is not None:
            labelled(console, "", f"{own.name}: {own.apart}")
    labelled(console, "nodes", f"{rerolling.num_nodes_before:,} -> {rerolling.num_nodes_after:,}")
    labelled(
        console,
        "verified",
        f"equal in ONNX Runtime on {rerolling.num_checks} random inputs, "
        f"largest difference {rerolling.max_abs_error:.1e}",
    )
    if rerolling.output:
        labelled(console, "written", rerolling.output)


def _header(model: ModelFacts, console: Console) -> None:
    console.print(Text(model.path or "model in memory", style="bold"))
    opsets = ", ".join(f"{domain} {version}" for domain, version in model.opsets.items())
    labelled(console, "model", f"{model.num_nodes:,} nodes, {model.num_parameters:,} parameters, {opsets}")
    labelled(console, "producer", model.producer or "unknown")


def _parity(parity: Parity, console: Console) -> None:
    labelled(
        console,
        "parity",
        f"torch agrees with ONNX Runtime ({parity.provider}) on {parity.num_values} values, "
        f"largest error {parity.max_abs_error:.1e}",
    )
    if parity.rounding is not None:
        labelled(
            console,
            "",
            "compared part by part, and as the file joins them, step by step or over whole runs with smaller "
            f"weights: over whole runs of its own the model makes rounding errors as large as "
            f"{parity.rounding:.1e}",
        )


def _inputs(inputs: Sequence[InputFacts], console: Console) -> None:
    for value in inputs:
        shape = " x ".join(map(str, value.shape)) or "scalar"
        labelled(console, "input", f"{value.name}: {shape} {value.dtype} ({value.source})")


def _recurrences(
    recurrences: Sequence[Recurrence],
    refusals: Sequence[Refusal],
    console: Console,
    lines: Callable[[Recurrence], Iterator[str]] = lambda found: iter(()),
) -> None:
    title(console, "Recurrences")
    if not recurrences:
        console.print("none: the chain of its blocks is analysed")
    for found in recurrences:
        states = ", ".join(f"{s.name} {list(s.shape)}" for s in found.states if not s.is_delay)
        delays = ", ".join(f"{s.name} {list(s.shape)}" for s in found.states if s.is_delay)
        form = found.form.replace("_", " ")
        words = f"{form}, {found.direction}, {found.num_steps} steps"
        if found.over is Axis.DEPTH:
            words = f"{form}, {found.num_steps} layers with tied weights, a recurrence over depth"
        labelled(console, found.id, f"{found.node}: {words}; states {states}")
        if delays:
            labelled(console, "", f"only delayed by a step, and no layer: {delays}")
        if found.chosen:
            labelled(console, "", f"as chosen: {_options(found.chosen)}")
        for line in lines(found):
            labelled(console, "", line)
    for refusal in refusals:
        labelled(console, "refused", f"{refusal.candidate} ({refusal.finder}): {refusal.reason}")


def _options(chosen: Sequence[str]) -> str:
    return " ".join(f"--state {text}" for text in chosen)


def _layers(layers: Sequence[LayerFacts], console: Console) -> None:
    title(console, "Layers")
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("layer", no_wrap=True)
    table.add_column("name", max_width=max(14, console.width - 72), overflow="ellipsis", no_wrap=True)
    for name in ("state", "time radius", "gain", "from", "depth radius", "gain"):
        table.add_column(name, justify="right", no_wrap=True)
    skipped = len(layers) - MAX_LAYERS if len(layers) > MAX_LAYERS else 0
    shown = [*layers[: MAX_LAYERS // 2], *layers[-MAX_LAYERS // 2 :]] if skipped else layers
    for index, layer in enumerate(shown):
        if skipped and index == MAX_LAYERS // 2:
            table.add_row("...", f"{skipped} more")
        pairs = zip(layer.depth_from, layer.depth_times, strict=True)
        sources = ",".join(source.removeprefix("layer_") + _when(times) for source, times in pairs)
        table.add_row(
            Text(layer.id.removeprefix("layer_")),
            Text(layer.name),
            f"{layer.state_size}",
            _number(layer.time_radius),
            _short(layer.time_gain),
            Text(sources or "-"),
            _number(layer.depth_radius),
            _short(layer.depth_gain),
        )
    console.print(table)


def _when(times: Sequence[int]) -> str:
    """At which times a layer is read, if not at the reader's own alone: (t,t-1)."""
    if tuple(times) in ((), (0,)):
        return ""
    shown = [f"t{time:+d}" if time else "t" for time in times]
    return f"({','.join(shown if len(shown) <= _MAX_TIMES else [*shown[:2], '...', shown[-1]])})"


def _radii(outcomes: Sequence[RadiusOutcome], black_box: BlackBoxFacts | None, console: Console) -> None:
    """How the radii were found, in one line; what did not converge is also a warning."""
    if not outcomes:
        return
    methods: Counter[str] = Counter()
    for own in outcomes:
        methods.update(own.methods)
    points, converged = (sum(getattr(o, f"num_{name}") for o in outcomes) for name in ("points", "converged"))
    errors = [own.max_error for own in outcomes if own.max_error is not None]
    words = ", ".join(f"{name} {count:,}" for name, count in methods.items())
    largest = f", relative error at most {max(errors):.0e}" if errors else ""
    if black_box is not None:
        largest += _by_differences(outcomes, black_box)
    console.print(
        Text(f"radii by {words}; {converged:,} of {points:,} points converged{largest}", style="dim")
    )


def _by_differences(outcomes: Sequence[RadiusOutcome], black_box: BlackBoxFacts) -> str:
    """How far radii may be off where derivatives are differences; of which edges that is not known."""
    moved = [own.max_difference_error for own in outcomes if own.max_difference_error is not None]
    rest = [own for own in outcomes if own.max_difference_error is None]
    words = (
        f"; error bars of the differences move a radius by at most {max(moved):.0e} of it" if moved else ""
    )
    if not rest:
        return words
    edges = [own.source if own.source == own.target else f"{own.source} -> {own.target}" for own in rest]
    beside = f"{black_box.max_relative_error:.0e} of a Jacobian's norm"
    return f"{words}; how far they ({beside}) move those of {few(edges)} is not known"


def _black_box(facts: BlackBoxFacts | None, console: Console) -> None:
    if facts is None:
        return
    title(console, "Black box (finite differences in ONNX Runtime)")
    console.print(Text(f"{few(facts.parts, separator='; ')}, because: {facts.reason}"))
    words = f"{facts.num_runs:,} runs in {facts.precision}; relative error of a Jacobian at most "
    console.print(Text(f"{words}{facts.max_relative_error:.1g}"))


def _surrogate(facts: SurrogateFacts | None, console: Console) -> None:
    if facts is None:
        return
    title(console, "Surrogate derivative")
    words = f"{facts.shape}, dampening {facts.dampening:g}, sharpness {facts.sharpness:g}"
    where = ", ".join(facts.nodes) or "nowhere: no threshold between states was found"
    console.print(Text(f"{words}; in place of that of {where}"))


def _time_parallel(layers: Sequence[TimeParallel], console: Console) -> None:
    if not layers:
        return
    title(console, "Causal layers without a cell (all times at once)")
    table = Table(box=None, pad_edge=False, header_style="dim")
    names = ("layer", "from", "axis", "steps", "reach", "dy[t]/dx[t]", "gain", "dy[t]/dx[t-1]", "gain")
    for name in names:
        table.add_column(Text(name), justify="right", no_wrap=True)
    for own in layers:
        table.add_row(
            own.layer_id.removeprefix("layer_"),
            own.source.removeprefix("layer_"),
            f"{own.time_axis}",
            f"{own.num_steps}",
            f"{own.reach}",
            _number(own.equal_radius),
            _short(own.equal_gain),
            _number(own.neighbour_radius),
            _short(own.neighbour_gain),
        )
    console.print(table)


def _causal(readings: Sequence[CausalReading], console: Console) -> None:
    if not readings:
        return
    title(console, "Causal layers without a cell")
    for own in readings:
        axes = [
            f"axis {axis} ({size} steps)" for axis, size in zip(own.time_axes, own.num_steps, strict=True)
        ]
        words = f"causal along {' or '.join(axes)} of its output"
        choose = "; choose time with --time-axis" if len(axes) > 1 else ""
        labelled(console, own.layer_id, f"from {own.source}: {words}{choose}")


def _number(value: Statistics | None) -> str:
    if value is None:
        return "-"
    digits = ".3f" if value.mean >= _LEAST_IN_PLACES or not value.mean else ".2e"
    # A single point has no standard error.
    error = f" ±{value.std_error:{digits}}" if value.num_points > 1 else ""
    return f"{value.mean:{digits}}{error}"


def _short(value: Statistics | None) -> str:
    return "-" if value is None else f"{value.mean:.3g}"


def _grid(grid: Grid, console: Console) -> None:
    count = grid.num_gradient_paths
    if grid.log10_num_gradient_paths is not None and grid.log10_num_gradient_paths >= 15:
        count = f"10^{grid.log10_num_gradient_paths:.2f}"
    title(console, "Grid")
    console.print(
        f"{grid.num_layers} layer(s) x {grid.num_steps} step(s): {count} gradient path(s) from the first "
        "state to the last"
    )


def _growth(analysis: Analysis, console: Console) -> None:
    growth = analysis.growth
    lines = growth_plot(growth, console.width)
    if not lines:
        return
    title(console, "Gradient growth")
    for line in lines:
        console.print(Text(line, no_wrap=True))
    if growth.coherence is not None and growth.measured_log10 is not None:
        console.print(
            Text(
                f"measured {growth.measured_log10:+.2f} = paths {growth.paths_log10 or 0:+.2f} "
                f"+ radii {growth.local_log10 or 0:+.2f} "
                f"+ interference {growth.interference_log10 or 0:+.2f} "
                f"(decades; coherence {growth.coherence:.2f})"
            )
        )
    if line := predictions(growth):
        console.print(Text(line))


def _verdict(analysis: Analysis, console: Console) -> None:
    verdict = analysis.verdict
    console.print()
    console.print(Text(f"Verdict: {verdict.label.upper()}", style=_STYLES[verdict.label]))
    for reason in verdict.reasons:
        console.print(Padding(Text(reason), (0, 0, 0, 2)))
    if verdict.recommended_target is not None:
        target = f"Recommended target radius: {verdict.recommended_target:.3f}"
        console.print(Padding(Text(target), (0, 0, 0, 2)))


def _warnings(warnings: Sequence[str], console: Console) -> None:
    if warnings:
        title(console, "Warnings")
        for warning in warnings:
            console.print(Padding(Text(warning, style="yellow"), (0, 0, 0, 2)))


def _next_steps(analysis: Analysis, console: Console) -> None:
    path = shlex.quote(analysis.model.path or "MODEL")
    steps = {
        Verdict.INCONCLUSIVE: f"average over more: lsc-graph audit {path} --samples 16",
        Verdict.STABLE: f"keep it so in CI: lsc-graph audit {path} --fail-on exploding,vanishing",
        Verdict.SUBEXPONENTIAL: f"look farther: lsc-graph audit {path} --steps {4 * analysis.grid.num_steps}",
    }
    step = steps.get(
        analysis.verdict.label,
        f"see whether your own data agree: lsc-graph audit {path} --data FILE.npz",
    )
    title(console, "Next")
    console.print(Padding(Text(step), (0, 0, 0, 2)))
    console.print(Padding(Text(f"all numbers as JSON: lsc-graph audit {path} --format json"), (0, 0, 0, 2)))
