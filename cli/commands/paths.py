"""`lsc-graph paths`"""

from __future__ import annotations

import click
from lsc_graph.cli.options import model_options, time_axis_option
from lsc_graph.cli.output import emit, text_of


@click.command("paths", context_settings={"help_option_names": ["-h", "--help"]})
@model_options
@time_axis_option
@click.option(
    "--from", "sources", multiple=True, metavar="LAYER[@TIME]",
    help="Where paths start (default: first). LAYER: id or name, first, last, inputs, outputs; "
    "TIME: a number, first, last or every.",
)  # fmt: skip
@click.option(
    "--to", "targets", multiple=True, metavar="LAYER[@TIME]", help="Where they end (default: last)."
)
@click.option("--exact", is_flag=True, help="All digits, however many.")
def command(
    model: str,
    steps: int | None,
    values: tuple[tuple[str, str], ...],
    input_shapes: dict[str, tuple[int, ...]],
    states: tuple[tuple[str, str], ...],
    time_axis: int | None,
    form: str,
    output: str | None,
    sources: tuple[str, ...],
    targets: tuple[str, ...],
    exact: bool,
) -> None:
    """Count the gradient paths of MODEL over any number of steps, without running it that long."""
    from lsc_graph.count_model import gradient_paths
    from lsc_graph.report.paths_terminal import render_paths
    from lsc_graph.report.to_json import to_json

    report = gradient_paths(
        model,
        num_steps=steps,
        sources=sources,
        targets=targets,
        exact=exact,
        inputs=dict(values),
        input_shapes=input_shapes,
        states=states,
        time_axis=time_axis,
    )
    emit(to_json(report) if form == "json" else text_of(render_paths, report, output), output)
