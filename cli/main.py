"""The `lsc-graph` command: commands are imported when they are run."""

from __future__ import annotations

import atexit
import importlib
import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from typing import NoReturn

import click
from lsc_graph.cli import exit_codes

COMMANDS = {
    "audit": "Measure whether a model's gradients survive its depth and time.",
    "inspect": "Show what was found in a model, without measuring it.",
    "paths": "Count a model's gradient paths, exactly and at any number of steps.",
    "pretrain": "Move a model's weights until its radii are at their targets, and write it again.",
    "reroll": "Rewrite unrolled recurrences as loops.",
    "unroll": "Write a model's depth x time grid as a graph file or a drawing.",
    "zoo": "Write the reference models.",
}


class LazyGroup(click.Group):
    """A group whose commands live in modules of their own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"lsc_graph.cli.commands.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("lsc-graph"), prog_name="lsc-graph")
@click.option("--debug", is_flag=True, help="Show the traceback of unexpected errors.")
def cli(debug: bool) -> None:
    """Will the gradients of this ONNX model survive depth and time?

    Exit codes: 0 analysed and within policy, 1 policy violated, 2 usage, 3 could not be analysed.
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and end the process with its code; callers who go on after it use `run`."""
    end_process(run(sys.argv[1:] if arguments is None else arguments))


def end_process(code: int) -> NoReturn:
    """What the interpreter does as it ends, as far as Python sees it, but the interpreter stays whole.

    Threads of torch and ONNX Runtime outlive the last line of Python. One that needs an interpreter which is
    being torn down aborts the process: SIGABRT for work that was done, or for a Ctrl-C that left whole files.
    """
    endings: tuple[Callable[[], object], ...] = (threading._shutdown, atexit._run_exitfuncs, flush)
    try:
        for ending in endings:
            with suppress(BaseException):
                ending()
    finally:
        os._exit(code)


def flush() -> None:
    """Write out what was printed; streams that the process was started without are None."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit code (see `exit_codes`)."""
    from lsc_graph.errors import LscGraphError, UsageError
    from lsc_graph.memory import out_of_memory

    try:
        code = cli.main(arguments, prog_name="lsc-graph", standalone_mode=False)
        flush()
        return code if isinstance(code, int) else exit_codes.OK
    except click.ClickException as error:
        error.show()
        return exit_codes.USAGE
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return exit_codes.INTERRUPTED
    except UsageError as error:
        click.echo(f"error: {error}", err=True)
        return exit_codes.USAGE
    except LscGraphError as error:
        click.echo(f"error: {error}", err=True)
        return exit_codes.NOT_ANALYSED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.NOT_ANALYSED
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        if (named := out_of_memory(error)) is not None:
            click.echo(f"error: {named}", err=True)
            return exit_codes.NOT_ANALYSED
        text = " ".join(str(error).split())[:300]
        click.echo(f"error: unexpected {type(error).__name__}: {text}", err=True)
        click.echo("  please report this (lsc-graph --debug ... shows where it happened)", err=True)
        return exit_codes.NOT_ANALYSED
