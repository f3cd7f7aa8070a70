"""Path counts for people, on a terminal or as plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lsc_graph.path_results import Boundary, CellCount, Count, EdgeTarget, PathReport, StateRef, TimeGrowth
from lsc_graph.report.lines import labelled, title

Item = TypeVar("Item")
MAX_ROWS = 24
MAX_COLUMNS = 9
_DIGITS_IN_A_LINE = 40


def render_paths(report: PathReport, console: Console) -> None:
    """Print a count of gradient paths."""
    console.print(Text(report.model.path or "model in memory", style="bold"))
    labelled(console, "grid", _grid(report))
    labelled(console, "from", _states(report.sources))
    labelled(console, "to", _states(report.targets))
    labelled(console, "paths", _words(report.total))
    labelled(console, "counted by", report.method)
    _digits(report.total, console)
    _growth(report, console)
    _from_inputs(report.from_inputs, console)
    _through_cells(report.through_cells, console)
    _targets(report.edge_targets, report.num_steps, console)
    for note in report.notes:
        console.print(Text(f"note: {note}"))


def _grid(report: PathReport) -> str:
    text = f"{report.num_layers} layer(s) x {report.num_steps:,} step(s)"
    if report.own_steps != report.num_steps:
        text += f"; connections as seen over {report.own_steps} step(s)"
    return text


def _states(refs: Sequence[StateRef]) -> str:
    shown = [f"{ref.layer}@{_time(ref.time)}" for ref in refs[:MAX_ROWS]]
    return ", ".join(shown + ["..."] * (len(refs) > MAX_ROWS))


def _time(time: int | None) -> str:
    return "every" if time is None else ("last" if time == -1 else str(time))


def _words(count: Count) -> str:
    if count.log10 is None:
        return "0"
    number = count.num_gradient_paths
    if number is not None and len(number) <= _DIGITS_IN_A_LINE:
        return f"{int(number):,} (log10 {count.log10:.6g})"
    return f"about 10^{count.log10:.6f}"


def _digits(count: Count, console: Console) -> None:
    """All digits, where they do not fit into the line."""
    number = count.num_gradient_paths
    if number is not None and len(number) > _DIGITS_IN_A_LINE:
        console.print("\n".join(textwrap.wrap(number, console.width)), highlight=False, soft_wrap=True)


def _growth(report: PathReport, console: Console) -> None:
    if report.growth is None and report.boundary is None and not report.directions:
        return
    title(console, "Growth")
    if report.growth is not None:
        labelled(console, "with time", _time_growth(report.growth))
    for rate in report.directions:
        factor = 10**rate.log10_per_edge
        labelled(console, f"{rate.dt:g} : {rate.dl:g}", f"steps to levels: a factor of {factor:.4f} per edge")
    if report.boundary is not None:
        labelled(console, "stable", _boundary(report.boundary))


def _time_growth(growth: TimeGrowth) -> str:
    power = f"T^{growth.degree}" if growth.degree else "a constant"
    if abs(growth.factor_per_step - 1.0) < 1e-9:
        return f"like {power}, at this depth"
    times = f" times {power}" if growth.degree else ""
    return f"by a factor of {growth.factor_per_step:.6g} per step{times}, at this depth"


def _boundary(boundary: Boundary) -> str:
    words = f"up to {boundary.critical_line}; " if boundary.critical_line else ""
    if boundary.balanced_coherent is not None and boundary.balanced_incoherent is not None:
        words += f"with a = b: {boundary.balanced_coherent:.4f} where paths align (p = 1), "
        words += f"{boundary.balanced_incoherent:.4f} where they are unrelated (p = 2)"
    else:
        words += "at any factors"
    return words if boundary.is_exact else f"{words} (the whole stack as one period of an endless one)"


def _from_inputs(counts: Sequence[CellCount], console: Console) -> None:
    if not counts:
        return
    title(console, "From each input")
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("input", no_wrap=True)
    table.add_column("time", justify="right")
    table.add_column("paths", justify="right", overflow="fold")
    for found in _some(counts, MAX_ROWS):
        table.add_row(Text(found.layer), str(found.time), _words(found.count))
    console.print(table)


def _through_cells(counts: Sequence[CellCount], console: Console) -> None:
    """log10 of the number of paths, depth upwards and time to the right."""
    if not counts:
        return
    title(console, "Through each cell (log10)")
    times = _some(sorted({found.time for found in counts}), MAX_COLUMNS)
    by_layer: dict[str, dict[int, Count]] = {}
    for found in counts:
        by_layer.setdefault(found.layer, {})[found.time] = found.count
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("layer", no_wrap=True)
    for time in times:
        table.add_column(f"t={time}", justify="right")
    for layer in reversed(_some(list(by_layer), MAX_ROWS)):
        row = [by_layer[layer].get(time) for time in times]
        shown = ["-" if c is None or c.log10 is None else f"{c.log10:.2f}" for c in row]
        table.add_row(Text(layer), *shown)
    console.print(table)


def _targets(targets: Sequence[EdgeTarget], num_steps: int, console: Console) -> None:
    if not targets:
        return
    title(console, "Edge weights for which no path sum exceeds 1")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("from", "to"):
        table.add_column(name, no_wrap=True)
    for name in ("aligned", "unrelated", f"aligned, T={num_steps}", f"unrelated, T={num_steps}"):
        table.add_column(name, justify="right")
    for target in _some(targets, MAX_ROWS):
        weights = (
            target.balanced_coherent,
            target.balanced_incoherent,
            target.unbalanced_coherent,
            target.unbalanced_incoherent,
        )
        head = target.target if target.source != target.target else "itself, next step"
        table.add_row(Text(target.source), Text(head), *("-" if w is None else f"{w:.4g}" for w in weights))
    console.print(table)
    if len(targets) > MAX_ROWS:
        console.print(Text(f"{MAX_ROWS} of {len(targets)} kinds of edges"))


def _some(items: Sequence[Item], number: int) -> list[Item]:
    """At most `number` of them, evenly spread, the first and the last included."""
    if len(items) <= number:
        return list(items)
    return [items[round(index * (len(items) - 1) / (number - 1))] for index in range(number)]
