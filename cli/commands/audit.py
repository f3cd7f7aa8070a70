"""`lsc-graph audit`"""

from __future__ import annotations

import click
from lsc_graph.cli import exit_codes
from lsc_graph.cli.options import device_option, model_options, surrogate_options, time_axis_option
from lsc_graph.cli.output import emit, progress, text_of

from lsc_graph.results import Verdict

LABELS = [verdict.value for verdict in Verdict]


def policy(context: click.Context, parameter: click.Parameter, text: str) -> frozenset[str]:
    """Labels that violate the policy; any policy is also violated by a verdict that was not reached."""
    labels = {label.strip().lower() for label in text.split(",")} - {"never", ""}
    unknown = labels - set(LABELS)
    if unknown:
        raise click.BadParameter(f"{', '.join(sorted(unknown))}: choose from {', '.join(LABELS)}, never")
    return frozenset(labels | {Verdict.INCONCLUSIVE.value} if labels else labels)


@click.command("audit", context_settings={"help_option_names": ["-h", "--help"]})
@model_options
@click.option(
    "--data", type=click.Path(), metavar="FILE.npz", help="Arrays by input name, instead of synthetic inputs."
)
@click.option(
    "--samples", type=click.IntRange(1), default=4, show_default=True, help="Samples to average over."
)
@click.option(
    "--precision",
    type=click.FloatRange(0, min_open=True),
    metavar="ERROR",
    help="Add samples until every radius has at most this standard error.",
)
@click.option(
    "--max-samples",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Stop adding samples for --precision at this number.",
)
@click.option(
    "--max-seconds",
    type=click.FloatRange(0),
    show_default="300 with --precision",
    help="Begin no sample that would not be over by then; if not one is, that is an error.",
)
@time_axis_option
@click.option("--seed", type=int, default=0, show_default=True)
@device_option
@click.option(
    "--radius-method",
    type=click.Choice(["auto", "dense", "squaring", "powers", "arnoldi"]),
    default="auto",
    show_default=True,
    help="Estimator of spectral radii; auto goes by size and device.",
)
@click.option(
    "--black-box",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Finite differences in ONNX Runtime: for what torch cannot represent, everything, or nothing.",
)
@surrogate_options
@click.option(
    "--fail-on", default="never", callback=policy, metavar="LABELS", show_default=True,
    help=f"Exit with 1 for these verdicts ({', '.join(LABELS)}; inconclusive is then included).",
)  # fmt: skip
def command(
    model: str,
    steps: int | None,
    values: tuple[tuple[str, str], ...],
    input_shapes: dict[str, tuple[int, ...]],
    states: tuple[tuple[str, str], ...],
    form: str,
    output: str | None,
    data: str | None,
    samples: int,
    precision: float | None,
    max_samples: int,
    max_seconds: float | None,
    time_axis: int | None,
    seed: int,
    device: str,
    radius_method: str,
    black_box: str,
    surrogate: str,
    surrogate_dampening: float | None,
    surrogate_sharpness: float | None,
    fail_on: frozenset[str],
) -> int:
    """Measure whether the gradients of MODEL survive its depth and time."""
    from lsc_graph.audit_model import audit
    from lsc_graph.report.terminal import render
    from lsc_graph.report.to_json import to_json

    with progress() as show:
        analysis = audit(
            model,
            num_steps=steps,
            data=data,
            inputs=dict(values),
            input_shapes=input_shapes,
            states=states,
            time_axis=time_axis,
            num_samples=samples,
            precision=precision,
            max_samples=max_samples,
            max_seconds=max_seconds,
            seed=seed,
            device=device,
            radius_method=radius_method,
            black_box=black_box,
            surrogate=surrogate,
            surrogate_dampening=surrogate_dampening,
            surrogate_sharpness=surrogate_sharpness,
            progress=show,
        )
    emit(to_json(analysis) if form == "json" else text_of(render, analysis, output), output)
    return exit_codes.POLICY_VIOLATED if analysis.verdict.label in fail_on else exit_codes.OK
