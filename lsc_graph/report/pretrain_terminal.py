"""What pre-training did, for people, on a terminal or as plain text."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lsc_graph.pretrain_results import PretrainReport, Radius
from lsc_graph.report.lines import labelled

_MAX_LEFT_OUT = 12


def render_pretraining(report: PretrainReport, console: Console) -> None:
    """Print radii before and after, what was trained and what was not."""
    console.print(Text(report.model.path or "model in memory", style="bold"))
    for label, text in _facts(report):
        labelled(console, label, text)
    for left in report.left_out[:_MAX_LEFT_OUT]:
        console.print(Text(f"not trained: {left.tensor} ({left.reason})"))
    if len(report.left_out) > _MAX_LEFT_OUT:
        console.print(Text(f"not trained: {len(report.left_out) - _MAX_LEFT_OUT} more"))
    for warning in report.warnings:
        console.print(Text(f"warning: {warning}"))
    console.print()
    console.print(_table(report))
    for change in report.radii:
        if not change.is_reached:
            console.print(Text(f"not reached: {change.name}, {change.kind}: {change.reason}"))


def _facts(report: PretrainReport) -> list[tuple[str, str]]:
    reached = f"{sum(change.is_reached for change in report.radii)} of {len(report.radii)} radii"
    stand_in = report.surrogate
    found = [
        ("method", f"{report.method}, {report.iterations} iteration(s), {report.seconds:.1f} s"),
        ("targets", _targets(report)),
        ("horizon", f"{report.num_steps} step(s)"),
        ("trained", f"{len(report.trained)} tensor(s)"),
        ("stopped", report.stop_reason),
        ("reached", f"{reached}, within {report.tolerance:g} plus twice the ± shown"),
    ]
    if stand_in is not None:
        text = f"{stand_in.shape} for the derivative of {len(stand_in.nodes)} threshold(s)"
        found.append(("surrogate", text))
    return found


def _targets(report: PretrainReport) -> str:
    """Of the kinds of radii that there are."""
    of_kind = {"time": report.target_time, "depth": report.target_depth}
    kinds = {change.kind for change in report.radii}
    return ", ".join(f"{value:.4g} in {kind}" for kind, value in of_kind.items() if kind in kinds)


def _table(report: PretrainReport) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("layer", "name", "kind", "from"):
        table.add_column(column, overflow="fold")
    for column in ("target", "before", "after", "written"):
        table.add_column(column, justify="right")
    for change in report.radii:
        kind = change.kind if change.quantity == "spectral radius" else f"{change.kind} ({change.quantity})"
        source = "" if change.kind == "time" else change.source
        numbers = [_number(change.before), _number(change.after), _number(change.written)]
        row = [change.layer, change.name, kind, source, f"{change.target:.3f}", *numbers]
        table.add_row(*(Text(cell) for cell in row))
    return table


def _number(radius: Radius | None) -> str:
    return "-" if radius is None else f"{radius.mean:.3f} ±{radius.std_error:.3f}"
