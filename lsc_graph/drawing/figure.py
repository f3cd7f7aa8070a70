"""The drawing of a grid: edges as wide as many paths they carry, coloured by their spectral radius."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import networkx as nx

from lsc_graph.drawing.layout import Layout, layout
from lsc_graph.errors import UsageError
from lsc_graph.grid.unroll import GridNode

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_KINDS = {"time": "#3b6fb6", "depth": "#d9822b", "within": "#7a8794"}
_NO_PATH = "#d5d9dd"
_FILLS = {"input": "#e3f1e3", "output": "#f6e3e3"}
_NARROW, _WIDE = 0.6, 5.0
_MOST_FULL_DIGITS = 5


def drawing(grid: nx.DiGraph[GridNode], kind: str, title: str = "") -> bytes:
    """The grid as an SVG or PNG file; the same bytes for the same grid.

    Nodes show the number of paths through them if `annotate_counts` was applied, which also sets the
    width of the edges (by its logarithm); edges are coloured by `radius` where `annotate_factors` knew one,
    else by kind. Runs of more than `layout.MAX_TIMES` steps or `layout.MAX_LEVELS` layers are elided.

    Args:
        grid: from `unroll` or `unroll_nodes`.
        kind: "svg" or "png".
        title: above the drawing.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            "Drawings need matplotlib, which is not installed",
            got=str(error),
            do="install it with: pip install 'lsc-graph[draw]'",
        ) from error
    places = layout(grid)
    width = 1.8 + 0.95 * (max((x for x, _ in places.at.values()), default=0) + 1)
    height = 1.3 + 0.85 * (max((y for _, y in places.at.values()), default=0) + 1)
    with mpl.rc_context({"svg.hashsalt": "lsc-graph", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        _draw(figure, grid, places, title)
        buffer = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def _draw(figure: Figure, grid: nx.DiGraph[GridNode], places: Layout, title: str) -> None:
    axes = figure.add_subplot()
    colours = _colours(grid)
    most = max((data.get("log10_num_paths", 0.0) for *_, data in grid.edges(data=True)), default=0.0)
    counted = any("num_paths" in data for *_, data in grid.edges(data=True))
    for tail, head, data in grid.edges(data=True):
        ends = _ends(places, tail, head)
        if ends is not None:
            _arrow(axes, *ends, colour=_colour(data, colours, counted), width=_width(data, most))
    for node, place in places.at.items():
        _node(axes, place, grid.nodes[node])
    _frame(axes, places, title)
    if colours is not None:
        bar = figure.colorbar(colours, ax=axes, shrink=0.7, pad=0.02)
        bar.set_label("spectral radius", fontsize=8)
        bar.ax.tick_params(labelsize=7, which="both")
        bar.ax.yaxis.set_major_formatter("{x:g}")
        bar.ax.yaxis.set_minor_formatter("{x:g}")


def _ends(
    places: Layout, tail: GridNode, head: GridNode
) -> tuple[tuple[float, float], tuple[float, float], bool] | None:
    """Both ends of an edge, and whether it leads to what is left out."""
    if tail in places.at and head in places.at:
        return places.at[tail], places.at[head], False
    gap = places.times.gap
    if gap is None or tail.layer != head.layer or not {tail, head} & places.at.keys():
        return None
    # The next step is left out: the edge ends, or starts, in the gap.
    if tail in places.at:
        x, y = places.at[tail]
        return (x, y), (gap - math.copysign(0.2, gap - x), y), True
    x, y = places.at[head]
    return (gap + math.copysign(0.2, x - gap), y), (x, y), True


def _arrow(
    axes: Axes,
    tail: tuple[float, float],
    head: tuple[float, float],
    is_cut: bool,
    *,
    colour: Any,
    width: float,
) -> None:
    (x, y), (u, v) = tail, head
    is_long = max(abs(u - x), abs(v - y)) > 1.01
    style = {
        "arrowstyle": f"-|>,head_length={0.25 + 0.04 * width},head_width={0.12 + 0.03 * width}",
        "color": colour,
        "linewidth": width,
        "linestyle": "dotted" if is_cut else "solid",
        "shrinkA": 0 if is_cut and x != round(x) else 12,
        "shrinkB": 0 if is_cut and u != round(u) else 12,
        "connectionstyle": "arc3,rad=0.22" if is_long else "arc3",
        "mutation_scale": 14,
    }
    axes.annotate("", xy=(u, v), xytext=(x, y), arrowprops=style, zorder=1)


def _colours(grid: nx.DiGraph[GridNode]) -> Any:
    """The scale of the radii, with 1 in the middle; None where none is known."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    radii = [data["radius"] for *_, data in grid.edges(data=True) if data.get("radius")]
    if not radii:
        return None
    spread = max(2.0, *(max(radius, 1.0 / radius) for radius in radii))
    return ScalarMappable(LogNorm(1.0 / spread, spread), "coolwarm")


def _colour(data: dict[str, Any], colours: Any, counted: bool) -> Any:
    if counted and not data.get("num_paths"):
        return _NO_PATH
    if colours is not None and data.get("radius"):
        return colours.to_rgba(data["radius"])
    return _KINDS.get(data.get("kind", ""), _KINDS["within"])


def _width(data: dict[str, Any], most: float) -> float:
    log = data.get("log10_num_paths")
    if log is None:
        return _NARROW if "num_paths" in data else 1.2
    return _NARROW + (_WIDE - _NARROW) * (log / most if most else 0.3)


def _node(axes: Axes, place: tuple[float, float], data: dict[str, Any]) -> None:
    fill = _FILLS.get(data["kind"], "white")
    edge = "#444444" if data.get("num_paths", 1) else _NO_PATH
    box = {"boxstyle": "round,pad=0.3", "facecolor": fill, "edgecolor": edge, "linewidth": 0.8}
    axes.text(*place, _label(data), ha="center", va="center", fontsize=7, bbox=box, zorder=2, color=edge)


def _label(data: dict[str, Any]) -> str:
    if "num_paths" not in data:  # larger grids are not counted
        return str(data["name"])[:8] if data["kind"] == "onnx_node" else "   "
    count = data["num_paths"]
    if not count:
        return "  "
    return str(count) if count < 10**_MOST_FULL_DIGITS else f"1e{data['log10_num_paths']:.1f}"


def _frame(axes: Axes, places: Layout, title: str) -> None:
    times, levels = places.times, places.levels
    axes.set_xticks([*times.at.values()], [str(time) for time in times.at], fontsize=8)
    axes.set_yticks([*places.rows], [_short(name) for name in places.rows.values()], fontsize=8)
    axes.set_xlabel("time", fontsize=9)
    axes.set_title(title, fontsize=9)
    for text, x, y in _gaps(places):
        axes.text(x, y, text, ha="center", va="center", fontsize=7, color="#777777")
    axes.set_xlim(-0.6, max([*times.at.values(), 0.0]) + 0.6)
    axes.set_ylim(-0.6, max([*levels.at.values(), 0.0]) + 0.6)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _gaps(places: Layout) -> Iterator[tuple[str, float, float]]:
    """What is left out, in words, and where."""
    if places.times.gap is not None:
        for height in places.rows:
            yield "...", places.times.gap, height
        yield f"{places.times.hidden} steps", places.times.gap, -0.45
    if places.levels.gap is not None:
        middle = sum(places.times.at.values()) / max(len(places.times.at), 1)
        yield f"... {places.levels.hidden} layers ...", middle, places.levels.gap


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:12]}...{name[-13:]}"
