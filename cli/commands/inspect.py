"""`lsc-graph inspect`"""

from __future__ import annotations

from functools import partial

import click
from lsc_graph.cli.options import model_options, time_axis_option
from lsc_graph.cli.output import emit, text_of


@click.command("inspect", context_settings={"help_option_names": ["-h", "--help"]})
@model_options
@time_axis_option
@click.option("-v", "--verbose", is_flag=True, help="Every node of a step (the JSON form always has them).")
def command(
    model: str,
    steps: int | None,
    values: tuple[tuple[str, str], ...],
    input_shapes: dict[str, tuple[int, ...]],
    states: tuple[tuple[str, str], ...],
    form: str,
    output: str | None,
    time_axis: int | None,
    verbose: bool,
) -> None:
    """Show what was found in MODEL, what was refused and why, without measuring it."""
    from lsc_graph.audit_model import inspect
    from lsc_graph.report.terminal import render_inspection
    from lsc_graph.report.to_json import to_json

    found = inspect(
        model,
        num_steps=steps,
        inputs=dict(values),
        input_shapes=input_shapes,
        states=states,
        time_axis=time_axis,
    )
    render = partial(render_inspection, is_verbose=verbose)
    emit(to_json(found) if form == "json" else text_of(render, found, output), output)
