"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Command = Callable[..., Any]


def pairs(separator: str, form: str) -> Callable[..., tuple[tuple[str, str], ...]]:
    """A callback that splits `LEFT<separator>RIGHT` at the last separator (`=`: the first)."""

    def split(
        context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
    ) -> tuple[tuple[str, str], ...]:
        found = []
        for text in texts:
            left, found_separator, right = (
                text.partition("=") if separator == "=" else text.rpartition(separator)
            )
            if not found_separator or not left or not right:
                raise click.BadParameter(f"{text!r} is not of the form {form}")
            found.append((left, right))
        return tuple(found)

    return split


def shapes(
    context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> dict[str, tuple[int, ...]]:
    """NAME:1,576 -> {"NAME": (1, 576)}."""
    found = {}
    for name, dims in pairs(":", "NAME:1,576")(context, parameter, texts):
        try:
            found[name] = tuple(int(dim) for dim in dims.replace("x", ",").split(","))
        except ValueError:
            raise click.BadParameter(f"{dims!r} is not a list of integers such as 1,576") from None
    return found


def state_pairs(
    context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    """IN:OUT pairs, or `none` alone."""
    if texts == ("none",):
        return (("none", ""),)
    return pairs(":", "IN:OUT, or none alone")(context, parameter, texts)


def state_option(command: Command) -> Command:
    """For commands whose result depends on what is a state."""
    words = (
        "A streaming state: output OUT is fed back as input IN; none: there is no such state. In steps that "
        "were written out: the step that takes over the value IN hands on the value OUT; VALUE:none: VALUE "
        "is no state, but computed again from the others."
    )
    option = click.option(
        "--state", "states", multiple=True, callback=state_pairs, metavar="IN:OUT", help=words
    )
    return option(command)


def time_axis_option(command: Command) -> Command:
    """For commands whose result depends on which axis is time where several could be."""
    words = (
        "Which axis is time, where several could be: of the outputs of causal layers, of inputs and outputs."
    )
    return click.option("--time-axis", type=int, metavar="AXIS", help=words)(command)


def model_options(command: Command) -> Command:
    """The model, everything that says how to feed it, and where the report goes."""
    decorators = [
        click.option("--format", "form", type=click.Choice(["text", "json"]), default="text"),
        click.option("-o", "--output", type=click.Path(dir_okay=False), help="Write the report to a file."),
    ]
    for decorator in reversed(decorators):
        command = decorator(command)
    return source_options(command)


def source_options(command: Command) -> Command:
    """The model and everything that says how to feed it."""
    decorators = [
        click.argument("model", type=click.Path()),
        click.option("--steps", type=click.IntRange(1), help="Time steps (default 32, or the model's)."),
        click.option(
            "--input", "values", multiple=True, callback=pairs("=", "NAME=VALUE"), metavar="NAME=VALUE",
            help="Fixed value: a number or a JSON list.",
        ),
        click.option(
            "--input-shape", "input_shapes", multiple=True, callback=shapes, metavar="NAME:1,576",
            help="Shape of an input.",
        ),
        state_option,
    ]  # fmt: skip
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


def device_option(command: Command) -> Command:
    """Where the torch view runs."""
    devices = click.Choice(["auto", "cpu", "cuda"])
    return click.option("--device", type=devices, default="auto", show_default=True)(command)


def surrogate_options(command: Command) -> Command:
    """The derivative that stands in for that of thresholds, and its two numbers."""
    decorators = [
        click.option(
            "--surrogate", type=click.Choice(["fast-sigmoid", "triangle", "exponential", "none"]),
            default="none", show_default=True,
            help="Derivative that stands in for that of thresholds between states (spikes).",
        ),
        click.option("--surrogate-dampening", type=float, help="Its value at the threshold."),
        click.option("--surrogate-sharpness", type=float, help="Its inverse width."),
    ]  # fmt: skip
    for decorator in reversed(decorators):
        command = decorator(command)
    return command
