"""The picture of growth puts each curve where its values are."""

from __future__ import annotations

from lsc_graph.report.plot import HEIGHT, growth_plot
from lsc_graph.results import Growth, GrowthPoint


def growth_of(values: list[float | None]) -> Growth:
    table = tuple(GrowthPoint(dt, 0, 0.0, value, None, None, None) for dt, value in enumerate(values))
    rest = {"coherence": None, "std_error": None, "paths_log10": None, "local_log10": None}
    return Growth(
        dt=len(values) - 1,
        dl=0,
        measured_log10=values[-1],
        coherent_log10=None,
        incoherent_log10=None,
        interference_log10=None,
        table=table,
        **rest,
    )


def test_decay_falls_from_top_left_to_bottom_right() -> None:
    lines = growth_plot(growth_of([0.0, -1.0, -2.0, -3.0, -4.0]), 60)
    plot = [line.split("|")[1] for line in lines if "|" in line]
    assert len(plot) == HEIGHT
    firsts = [row.index("o") for row in plot if "o" in row]
    assert firsts == sorted(firsts)
    assert plot[0].startswith("o")
    assert plot[-1].endswith("o")


def test_zero_gradients_leave_gaps_and_one_point_gives_no_plot() -> None:
    assert any("o" in line for line in growth_plot(growth_of([0.0, None, None, -1.0]), 60))
    assert growth_plot(growth_of([0.0]), 60) == []
