"""Where reports and progress go."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

PLAIN_WIDTH = 100
MAX_SILENCE = 30.0
"""After so many seconds a command says how far it is, where no terminal shows it all the time."""


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
def progress() -> Iterator[Callable[[str, float], None]]:
    """A progress line on standard error while it is a terminal; elsewhere a new line now and then."""
    if not sys.stderr.isatty():
        yield _now_and_then()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Starting", total=1.0)
        yield lambda stage, fraction: bar.update(task, description=stage, completed=fraction)


def _now_and_then() -> Callable[[str, float], None]:
    """Says the stage where the last word was long ago."""
    last = time.monotonic()

    def show(stage: str, fraction: float) -> None:
        nonlocal last
        if time.monotonic() - last >= MAX_SILENCE:
            last = time.monotonic()
            click.echo(f"{stage} ({fraction:.0%})", err=True)

    return show
