"""The printed counts fit the terminal and say what was counted."""

from __future__ import annotations

import io
import math

import pytest
from lsc_graph.models import registry
from rich.console import Console

from lsc_graph.count_model import gradient_paths
from lsc_graph.report.paths_terminal import render_paths


def text_of(name: str, width: int = 100, *, exact: bool = False, steps: int | None = 40, **options) -> str:
    buffer = io.StringIO()
    report = gradient_paths(registry.build(name, **options), num_steps=steps, exact=exact)
    render_paths(report, Console(file=buffer, width=width, highlight=False))
    return buffer.getvalue()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    ("name", "steps"), [("lstm", 1000), ("bidirectional_lstm", 40), ("lru", 5), ("feed_forward_sin", None)]
)
def test_no_line_is_wider_than_the_terminal(name: str, steps: int | None, width: int) -> None:
    text = text_of(name, width, steps=steps)
    assert max(len(line) for line in text.splitlines()) <= width
    for part in ("grid", "from", "to", "paths", "counted by", "Edge weights"):
        assert part in text


def test_small_counts_are_written_out_and_large_ones_as_powers() -> None:
    assert f"{math.comb(41, 2):,} (log10" in text_of("gru", num_layers=3)
    assert "about 10^" in text_of("gru", steps=10**6, num_layers=12)


def test_all_digits_stand_below() -> None:
    number = str(math.comb(10**6 - 1 + 11, 11))
    text = text_of("gru", steps=10**6, exact=True, num_layers=12)
    assert number in "".join(text.split())


def test_growth_and_boundary_are_in_words() -> None:
    text = " ".join(text_of("gru", num_layers=3).split())
    assert "like T^2, at this depth" in text
    assert "up to a^p + b^p = 1; with a = b: 0.5000" in text
    assert "with time" not in text_of("bidirectional_lstm")
