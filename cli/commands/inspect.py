"""`lsc-graph inspect`"""

from __future__ import annotations

import click
from lsc_graph.cli.options import model_options
from lsc_graph.cli.output import emit, text_of


@click.command("inspect", context_settings={"help_option_names": ["-h", "--help"]})
@model_options
def command(
    model: str,
    steps: int | None,
    values: tuple[tuple[str, str], ...],
    input_shapes: dict[str, tuple[int, ...]],
    states: tuple[tuple[str, str], ...],
    form: str,
    output: str | None,
) -> None:
    """Show what was found in MODEL, what was refused and why, without measuring it."""
    from lsc_graph.audit_model import inspect
    from lsc_graph.report.terminal import render_inspection
    from lsc_graph.report.to_json import to_json

    found = inspect(model, num_steps=steps, inputs=dict(values), input_shapes=input_shapes, states=states)
    emit(to_json(found) if form == "json" else text_of(render_inspection, found, output), output)
