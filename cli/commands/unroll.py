"""`lsc-graph unroll`"""

from __future__ import annotations

import click
from lsc_graph.cli.options import source_options, time_axis_option
from lsc_graph.cli.output import writing


@click.command("unroll", context_settings={"help_option_names": ["-h", "--help"]})
@source_options
@time_axis_option
@click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False),
    help="File: .graphml, .gexf, .json (node-link), .dot, .svg or .png.",
)  # fmt: skip
@click.option("--nodes", is_flag=True, help="Every ONNX node of every step, instead of layers.")
@click.option("--measure", is_flag=True, help="Audit the model for the radii and gains of the edges.")
@click.option("--from", "sources", multiple=True, metavar="LAYER[@TIME]", help="As for paths.")
@click.option("--to", "targets", multiple=True, metavar="LAYER[@TIME]", help="As for paths.")
def command(
    model: str,
    steps: int | None,
    values: tuple[tuple[str, str], ...],
    input_shapes: dict[str, tuple[int, ...]],
    states: tuple[tuple[str, str], ...],
    time_axis: int | None,
    output: str,
    nodes: bool,
    measure: bool,
    sources: tuple[str, ...],
    targets: tuple[str, ...],
) -> None:
    """Write the depth x time grid of MODEL: a graph file, or a drawing (time on x, depth on y).

    Nodes and edges carry the number of gradient paths through them.
    """
    from pathlib import Path

    from lsc_graph.drawing.grid_files import format_of, write_grid
    from lsc_graph.unrolling.unroll_model import unroll_model

    if nodes and (sources or targets):
        raise click.UsageError("--nodes counts from all inputs to all outputs: leave out --from and --to")
    format_of(output)
    grid = unroll_model(
        model,
        num_steps=steps,
        nodes=nodes,
        measure=measure,
        sources=sources,
        targets=targets,
        inputs=dict(values),
        input_shapes=input_shapes,
        states=states,
        time_axis=time_axis,
    )
    with writing(output):
        write_grid(grid, output, title=Path(model).name)
    for note in grid.graph["notes"]:
        click.echo(f"note: {note}", err=True)
    click.echo(f"{output}: {len(grid):,} nodes, {grid.number_of_edges():,} edges")
