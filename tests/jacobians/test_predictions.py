"""Predictions in audits: beside the measured growth, and near it."""

from __future__ import annotations

import io

import pytest
from lsc_graph.models import registry
from rich.console import Console

from lsc_graph.audit_model import audit
from lsc_graph.report.statistics_terminal import predictions
from lsc_graph.report.terminal import render


@pytest.mark.parametrize(
    ("name", "tolerance"), [("linear_orthogonal_rnn", 0.1), ("gru", 0.3), ("lstm", 0.3), ("tanh_rnn", 0.3)]
)
def test_resampling_predicts_the_growth_of_the_zoo(name: str, tolerance: float) -> None:
    growth = audit(registry.build(name, hidden_size=32), num_steps=20, num_samples=4).growth
    for point in growth.table:
        assert point.measured_log10 is not None
        assert point.resampled_log10 == pytest.approx(point.measured_log10, abs=tolerance)
    assert growth.resampled_log10 == growth.table[-1].resampled_log10
    assert growth.mean_field_log10 is not None


def test_random_signs_leave_out_the_interference() -> None:
    growth = audit(registry.build("pascal_rnn"), num_steps=12, num_samples=1).growth
    assert growth.random_sign_log10 is not None
    assert growth.paths_log10 is not None
    assert growth.local_log10 is not None
    assert growth.random_sign_log10 == pytest.approx(growth.paths_log10 + growth.local_log10)


def test_a_model_without_a_time_axis_has_no_predictions_over_time() -> None:
    analysis = audit(registry.build("feed_forward_relu"), num_samples=1)
    assert analysis.growth.resampled_log10 is None
    assert predictions(analysis.growth) == ""


def test_the_terminal_shows_predictions_covariance_and_spread() -> None:
    analysis = audit(registry.build("gru"), num_steps=16, num_samples=4, precision=0.5)
    console = Console(width=160, record=True, file=io.StringIO())
    render(analysis, console)
    text = console.export_text()
    assert f"resampled {analysis.growth.resampled_log10:+.2f}" in text
    assert "decaying covariance of the radii over 16 steps" in text
    assert "over the layers: time radius" in text
    assert "precision 0.5 reached" in text
