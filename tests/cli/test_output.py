"""Progress goes to standard error: as a bar on a terminal, now and then as a line elsewhere."""

from __future__ import annotations

import pytest
from lsc_graph.cli import output


def test_what_takes_long_says_how_far_it_is_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter((0.0, 5.0, 40.0, 40.0, 60.0, 90.0, 90.0))
    monkeypatch.setattr(output.time, "monotonic", lambda: next(now))
    with output.progress() as show:
        for stage, fraction in (("one", 0.1), ("two", 0.25), ("three", 0.5), ("four", 1.0)):
            show(stage, fraction)
    found = capsys.readouterr()
    assert found.err.splitlines() == ["two (25%)", "four (100%)"]
    assert not found.out
