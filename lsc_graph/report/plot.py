"""A small picture of growth in characters."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lsc_graph.results import Growth, GrowthPoint

HEIGHT = 11
SERIES = (
    ("coherent_log10", "-", "coherent"),
    ("incoherent_log10", ".", "incoherent"),
    ("measured_log10", "o", "measured"),
)


def growth_plot(growth: Growth, width: int) -> list[str]:
    """Lines of a plot of log10 growth against time lag at the full depth (against depth where T = 1)."""
    points = _row(growth)
    if len(points) < 2:
        return []
    along = "dt" if growth.dt else "dl"
    values = [v for name, _, _ in SERIES for v in _values(points, name) if v is not None]
    if not values:
        return []
    low, high = min(0.0, math.floor(min(values))), max(0.0, math.ceil(max(values)))
    high = high if high > low else low + 1.0
    columns = max(10, min(width - 10, 4 * len(points)))
    canvas = [[" "] * columns for _ in range(HEIGHT)]
    zero = _line(0.0, low, high)
    canvas[zero] = [":" if column % 2 else " " for column in range(columns)]
    for name, mark, _ in SERIES:
        _draw(canvas, _values(points, name), mark, low, high)
    labels = {0: f"{high:+.0f}", HEIGHT - 1: f"{low:+.0f}", zero: "0"}
    lines = [f"{labels.get(index, ''):>6} |{''.join(row)}" for index, row in enumerate(canvas)]
    last = getattr(points[-1], along)
    lines.append(" " * 7 + "+" + "-" * columns)
    lines.append(" " * 8 + f"0{f'{along} = {last}':>{columns - 1}}")
    legend = "   ".join(f"{mark} {words}" for _, mark, words in reversed(SERIES))
    at = f"dl = {growth.dl}" if growth.dt else "one step"
    return [f"log10 growth, {at}      {legend}", *lines]


def _row(growth: Growth) -> list[GrowthPoint]:
    if growth.dt:
        return sorted((p for p in growth.table if p.dl == growth.dl), key=lambda p: p.dt)
    return sorted((p for p in growth.table if p.dt == 0), key=lambda p: p.dl)


def _values(points: Sequence[GrowthPoint], name: str) -> list[float | None]:
    return [getattr(point, name) for point in points]


def _line(value: float, low: float, high: float) -> int:
    return round((high - value) / (high - low) * (HEIGHT - 1))


def _draw(
    canvas: list[list[str]], values: Sequence[float | None], mark: str, low: float, high: float
) -> None:
    columns = len(canvas[0])
    for column in range(columns):
        value = values[round(column * (len(values) - 1) / (columns - 1))]
        if value is not None:
            canvas[_line(value, low, high)][column] = mark
