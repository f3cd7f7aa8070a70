"""`lsc-graph reroll`"""

from __future__ import annotations

import click
from lsc_graph.cli.options import shapes, state_option
from lsc_graph.cli.output import emit, text_of


@click.command("reroll", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path())
@click.option("-o", "--output", type=click.Path(dir_okay=False), required=True, help="The rewritten model.")
@click.option(
    "--input-shape",
    "input_shapes",
    multiple=True,
    callback=shapes,
    metavar="NAME:1,576",
    help="Shape of an input, to verify with.",
)
@state_option
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
def command(
    model: str,
    output: str,
    input_shapes: dict[str, tuple[int, ...]],
    states: tuple[tuple[str, str], ...],
    form: str,
) -> None:
    """Rewrite the unrolled recurrences of MODEL as Scan nodes, verified equal in ONNX Runtime."""
    from lsc_graph.report.terminal import render_rerolling
    from lsc_graph.report.to_json import to_json
    from lsc_graph.rerolling import reroll

    try:
        found = reroll(model, output, input_shapes=input_shapes, states=states)
    except OSError as error:
        raise click.BadParameter(f"cannot write {output}: {error.strerror}", param_hint="--output") from error
    emit(to_json(found) if form == "json" else text_of(render_rerolling, found, None), None)
