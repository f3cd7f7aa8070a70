"""Drawings are files of their kind, the same each time, and show counts, radii and gaps."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree

import pytest
from cell_graphs import cell_graph, skips, stack, with_terminals

from lsc_graph.drawing.figure import drawing
from lsc_graph.errors import UsageError
from lsc_graph.grid.unroll import GridNode, unroll
from lsc_graph.unrolling.annotate import annotate_counts


def counted(cells, num_steps: int):
    grid = unroll(cells, num_steps)
    ids = [layer.id for layer in cells.layers if layer.role == "state"]
    annotate_counts(grid, [GridNode(ids[0], 0)], [GridNode(ids[-1], num_steps - 1)])
    return grid


def texts(svg: bytes) -> list[str]:
    return [
        element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")
    ]


def test_an_svg_shows_the_number_of_paths_through_each_cell() -> None:
    shown = texts(drawing(counted(stack(3), 5), "svg", "a title"))
    assert {"a title", "time", "l0", "l2", "15", "9"} <= set(shown)


def test_a_long_grid_says_how_much_is_left_out() -> None:
    shown = texts(drawing(counted(stack(3), 500), "svg"))
    assert "488 steps" in shown
    assert "499" in shown
    assert "1e5.1" in shown
    assert "... 77 layers ..." in texts(drawing(counted(skips(100), 2), "svg"))


def test_edges_with_radii_come_with_a_scale() -> None:
    grid = counted(stack(2), 3)
    for *_, data in grid.edges(data=True):
        data["radius"] = 0.25
    assert "spectral radius" in texts(drawing(grid, "svg"))
    assert "spectral radius" not in texts(drawing(counted(stack(2), 3), "svg"))


def test_the_same_grid_gives_the_same_bytes() -> None:
    for kind in ("svg", "png"):
        assert drawing(counted(stack(2), 3), kind) == drawing(counted(stack(2), 3), kind)


def test_a_png_is_a_png() -> None:
    assert drawing(counted(with_terminals(stack(2)), 3), "png").startswith(b"\x89PNG")


def test_a_single_cell_and_a_grid_without_counts_can_be_drawn() -> None:
    assert texts(drawing(unroll(cell_graph({"a": 1}, [], 1)), "svg"))
    assert texts(drawing(unroll(stack(3), 20), "svg"))


def test_without_matplotlib_the_reader_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match="need matplotlib"):
        drawing(unroll(stack(2), 2), "svg")
