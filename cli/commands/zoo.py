"""`lsc-graph zoo`"""

from __future__ import annotations

import click


@click.command("zoo", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1)
@click.option("-o", "--output", "folder", type=click.Path(file_okay=False), help="Folder to write into.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--list", "listed", is_flag=True, help="List the models instead.")
def command(names: tuple[str, ...], folder: str | None, seed: int, listed: bool) -> None:
    """Write the reference models NAMES (all by default) as .onnx files."""
    from lsc_graph import models

    if listed:
        for name in names or models.names():
            click.echo(f"{name:24} {models.card(name).summary}")
        return
    if folder is None:
        raise click.UsageError("give the folder to write into with -o, or --list")
    for path in models.write_zoo(folder, list(names) or None, seed):
        click.echo(str(path))
