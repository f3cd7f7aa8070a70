"""The text report says everything that matters, at any width."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from lsc_graph.models import registry
from rich.console import Console

from lsc_graph.audit_model import audit, inspect
from lsc_graph.report.terminal import render, render_inspection


def text_of(name: str, width: int = 100, **options: object) -> str:
    steps = 12 if registry.card(name).forms else None
    buffer = io.StringIO()
    console = Console(file=buffer, width=width, highlight=False)
    render(audit(registry.build(name, **options), num_steps=steps, num_samples=2), console)
    return buffer.getvalue()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", ["lstm", "bidirectional_lstm", "lru", "feed_forward_relu"])
def test_no_line_is_wider_than_the_terminal_and_every_part_is_there(name: str, width: int) -> None:
    text = text_of(name, width)
    assert max(len(line) for line in text.splitlines()) <= width
    for part in ("parity", "Recurrences", "Layers", "Grid", "Gradient growth", "Verdict:", "Next"):
        assert part in text
    assert "\x1b" not in text


def test_the_verdict_its_reasons_and_the_three_factors_are_printed() -> None:
    text = text_of("lstm")
    assert "Verdict: VANISHING" in text
    assert "coherence" in text
    assert "Recommended target radius" in text


def test_a_single_point_is_shown_without_a_standard_error() -> None:
    buffer = io.StringIO()
    render(audit(registry.build("lstm"), num_steps=2, num_samples=1), Console(file=buffer, width=100))
    (row,) = (line for line in buffer.getvalue().splitlines() if line.startswith("0 "))
    assert "±" not in row


@pytest.mark.parametrize(
    ("mean", "shown"), [(0.0, "0.000 ±0.000"), (0.0123, "0.012 ±"), (3.5e-7, "3.50e-07 ±")]
)
def test_a_small_radius_is_not_shown_as_none(mean: float, shown: str) -> None:
    found = audit(registry.build("lstm"), num_steps=8, num_samples=2)
    radius = found.layers[0].time_radius
    assert radius is not None
    small = replace(radius, mean=mean, std_error=mean / 10)
    layers = (replace(found.layers[0], time_radius=small), *found.layers[1:])
    buffer = io.StringIO()
    render(replace(found, layers=layers), Console(file=buffer, width=160))
    assert any(shown in line for line in buffer.getvalue().splitlines() if line.startswith("0 "))


def test_of_black_boxes_the_error_of_differences_stands_beside_that_of_the_estimator() -> None:
    buffer = io.StringIO()
    found = audit(registry.build("gru", hidden_size=4), num_steps=4, num_samples=1, black_box="always")
    render(found, Console(file=buffer, width=200, highlight=False))
    (line,) = (line for line in buffer.getvalue().splitlines() if line.startswith("radii by"))
    moved = max(own.max_difference_error or 0.0 for own in found.radii)
    assert moved > 0
    assert f"error bars of the differences move a radius by at most {moved:.0e} of it" in line
    assert "differences" not in text_of("gru")


def test_edges_whose_bars_are_not_known_are_named() -> None:
    buffer = io.StringIO()
    found = audit(registry.build("gru", hidden_size=4), num_steps=4, num_samples=1, black_box="always")
    first, *others = found.radii
    unknown = replace(found, radii=(replace(first, max_difference_error=None), *others))
    render(unknown, Console(file=buffer, width=300, highlight=False))
    (line,) = (line for line in buffer.getvalue().splitlines() if line.startswith("radii by"))
    assert "move a radius by at most" in line
    assert f"move those of {first.target} is not known" in line


def test_many_layers_are_elided_in_the_middle() -> None:
    text = text_of("feed_forward_linear", num_layers=60)
    assert "20 more" in text


def test_an_inspection_shows_what_was_found_and_no_verdict() -> None:
    buffer = io.StringIO()
    render_inspection(inspect(registry.build("streaming_gru"), num_steps=4), Console(file=buffer, width=80))
    text = buffer.getvalue()
    assert "streaming" in text
    assert "h0 -> h0n" in text
    assert "Verdict" not in text


def test_brackets_in_names_are_printed_as_they_are() -> None:
    model = registry.build("gru")
    for node in model.graph.node:
        node.name = node.name.replace("layer_0", "[bold]layer_0")
    buffer = io.StringIO()
    render(audit(model, num_steps=3, num_samples=1), Console(file=buffer, width=140))
    assert "[bold]layer_0" in buffer.getvalue()
