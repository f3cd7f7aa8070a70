"""`lsc-graph pretrain`"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from lsc_graph.cli import exit_codes
from lsc_graph.cli.options import device_option, source_options, surrogate_options
from lsc_graph.cli.output import emit, progress, text_of

if TYPE_CHECKING:
    from lsc_graph.pretraining.fit import Progress

TARGETS = ("half", "one", "sqrt", "auto", "unbalanced")
METHODS = ("rescale", "gradient", "both", "paper")
Override = tuple[str, str | None, float]


def overrides(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> list[Override]:
    """PATTERN=0.7 or PATTERN:time=0.7."""
    found: list[Override] = []
    for text in texts:
        left, sign, value = text.rpartition("=")
        pattern, colon, kind = left.rpartition(":")
        if not colon or kind not in ("time", "depth"):
            pattern, kind = left, ""
        try:
            found.append((pattern, kind or None, float(value)))
        except ValueError:
            pattern = ""
        if not sign or not pattern:
            raise click.BadParameter(f"{text!r} is not of the form PATTERN=RADIUS or PATTERN:time=RADIUS")
    return found


class FitProgress:
    """The line of progress, in terms of a fit of at most so many iterations."""

    def __init__(self, show: Callable[[str, float], None], most: int) -> None:
        self._show, self._most = show, most
        self._start, self._count, self._done, self._where = time.monotonic(), 0, 0.0, ""

    def __call__(self, step: Progress) -> None:
        """After an iteration."""
        self._count += 1  # not the iterations: those before an interruption took no time here
        left = (self._most - step.iteration) * (time.monotonic() - self._start) / self._count
        self._done = step.iteration / max(1, self._most)
        self._where = f"Iteration {step.iteration}, {step.largest_error:.3f} from target"
        self._show(f"{self._where}, {left:.0f} s at most", self._done)

    def stage(self, text: str) -> None:
        """Between iterations, before the first one and after the last one."""
        self._show(f"{self._where}. {text}" if self._where else text, self._done)


@contextmanager
def fit_progress(most: int, *, is_shown: bool = True) -> Iterator[FitProgress]:
    """Where the progress of a fit goes."""
    if not is_shown:
        yield FitProgress(lambda text, fraction: None, most)
        return
    with progress() as show:
        show("Finding the layers, and what moves their radii", 0.0)
        yield FitProgress(show, most)


@click.command("pretrain", context_settings={"help_option_names": ["-h", "--help"]})
@source_options
@click.option("-o", "--output", type=click.Path(dir_okay=False), required=True, help="The model to write.")
@click.option(
    "--save-weights",
    type=click.Path(dir_okay=False),
    metavar="FILE.safetensors",
    help="Write the trained tensors there, too, by their names.",
)
@click.option("--in-place", is_flag=True, help="Allow the output to be MODEL itself.")
@click.option(
    "--target", type=click.Choice(TARGETS), help="Target radii (default half; one for feed-forward models)."
)
@click.option("--target-time", type=float, metavar="RADIUS", help="Target of radii in time.")
@click.option("--target-depth", type=float, metavar="RADIUS", help="Target of radii in depth.")
@click.option(
    "--target-layer",
    "overrides",
    multiple=True,
    callback=overrides,
    metavar="PATTERN[:KIND]=RADIUS",
    help="Target of layers by name or id; KIND is time or depth.",
)
@click.option("--method", type=click.Choice(METHODS), default="rescale", show_default=True)
@click.option("--tolerance", type=float, default=0.02, show_default=True)
@click.option("--max-iterations", type=click.IntRange(0), help="By default what the method needs.")
@click.option("--train", multiple=True, metavar="PATTERN", help="Train only tensors with such names.")
@click.option("--freeze", multiple=True, metavar="PATTERN", help="Leave tensors with such names alone.")
@click.option(
    "--data", type=click.Path(), metavar="FILE.npz", help="Arrays by input name, instead of synthetic inputs."
)
@click.option("--seed", type=int, default=0, show_default=True)
@device_option
@surrogate_options
@click.option("--checkpoint", type=click.Path(dir_okay=False), help="Keep the state of the fit in this file.")
@click.option("--resume", is_flag=True, help="Go on from --checkpoint, if it is there.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
def command(
    model: str,
    output: str,
    steps: int | None,
    values: tuple[tuple[str, str], ...],
    max_iterations: int | None,
    method: str,
    form: str,
    **options: Any,
) -> int:
    """Move the weights of MODEL until the mean radius of every layer is at its target, and write it again.

    Only bytes of trained tensors change. Exit code 1 means that the file was written, but a radius is not at
    its target: the report says which, and why.
    """
    from lsc_graph.pretraining.methods import MAX_ITERATIONS
    from lsc_graph.pretraining.pretrain_file import pretrain_file
    from lsc_graph.pretraining.shards import rank
    from lsc_graph.report.pretrain_terminal import render_pretraining
    from lsc_graph.report.to_json import to_json

    most = MAX_ITERATIONS[method] if max_iterations is None else max_iterations
    with fit_progress(most, is_shown=rank() == 0) as show:
        report = pretrain_file(
            model,
            output,
            num_steps=steps,
            inputs=dict(values),
            max_iterations=max_iterations,
            method=method,
            progress=show,
            stage=show.stage,
            **options,
        )
    if rank() != 0:
        # Where one process ends with another code, torchrun ends all, and the first one is still writing.
        return exit_codes.OK
    text = f"{text_of(render_pretraining, report, None)}\nwritten to {output}\n"
    emit(to_json(report) if form == "json" else text, None)
    return exit_codes.OK if report.is_reached else exit_codes.POLICY_VIOLATED
