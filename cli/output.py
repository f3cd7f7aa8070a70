"""Where reports and progress go."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

PLAIN_WIDTH = 100


def emit(text: str, output: str | None) -> None:
    """Results: to standard output, or whole into a file."""
    if output is None:
        click.echo(text, nl=False)
        return
    from lsc_graph.files import write_text

    with writing(output):
        write_text(output, text)


@contextmanager
def writing(output: str) -> Iterator[None]:
    """A file that cannot be written is the caller's error."""
    try:
        yield
    except OSError as error:
        raise click.BadParameter(f"cannot write {output}: {error.strerror}", param_hint="--output") from error


def text_of(render: Callable[..., None], result: object, output: str | None) -> str:
    """A report as text: coloured and as wide as the terminal if it goes to one."""
    from rich.console import Console

    terminal = output is None and sys.stdout.isatty()
    buffer = io.StringIO()
    width = None if terminal else PLAIN_WIDTH
    console = Console(file=buffer, width=width, force_terminal=terminal, highlight=False, soft_wrap=False)
    render(result, console)
    lines = [line.rstrip() for line in buffer.getvalue().splitlines()]
    text = "\n".join(lines) + "\n"
    encoding = (sys.stdout.encoding or "utf-8") if output is None else "utf-8"
    return text.replace("±", "+-") if "utf" not in encoding.lower() else text


@contextmanager
def progress() -> Iterator[Callable[[str, float], None] | None]:
    """A progress line on standard error while it is a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Starting", total=1.0)
        yield lambda stage, fraction: bar.update(task, description=stage, completed=fraction)
