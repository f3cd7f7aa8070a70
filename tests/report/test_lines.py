"""Tests of what the reports for people are made of."""

import io

from rich.console import Console

from lsc_graph.report.lines import labelled, title


def _printed(width: int, *calls: tuple[str, str]) -> list[str]:
    stream = io.StringIO()
    console = Console(file=stream, width=width)
    for label, text in calls:
        labelled(console, label, text) if label else title(console, text)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_a_long_text_goes_on_under_itself() -> None:
    first, second = _printed(24, ("nodes", "abcdefgh ijklmnop"))
    assert first.startswith("nodes")
    assert first.endswith("abcdefgh")
    assert second.index("ijklmnop") == first.index("abcdefgh")


def test_square_brackets_are_text_and_no_markup() -> None:
    assert _printed(80, ("states", "h [1, 16]")) == ["states       h [1, 16]"]


def test_a_heading_has_an_empty_line_above_it() -> None:
    assert _printed(80, ("", "Layers")) == ["", "Layers"]
