"""Audits whose time Jacobians are never built at once find what those with dense ones find."""

from __future__ import annotations

import onnx
import pytest
from lsc_graph.models import registry

import lsc_graph
from lsc_graph.jacobians import local, time_maps
from lsc_graph.results import Analysis, Form, Statistics

CELLS = {
    "gru": {},
    "lstm": {},
    "alif_smooth": {"form": Form.SCAN},
    "scan_gru": {},
}


def audited(model: onnx.ModelProto) -> Analysis:
    return lsc_graph.audit(model, num_steps=6, num_samples=1, seed=0)


def same(found: Statistics | None, expected: Statistics | None) -> bool:
    assert found is not None
    assert expected is not None
    return found.mean == pytest.approx(expected.mean, rel=5e-3) and found.num_points == expected.num_points


@pytest.mark.parametrize(("name", "with_gates"), [*((name, True) for name in CELLS), ("gru", False)])
def test_radii_gains_and_growth_are_those_of_dense_jacobians(
    name: str, with_gates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = registry.build(name, hidden_size=12, **CELLS[name])
    dense = audited(model)
    monkeypatch.setattr(local, "MAX_TIME_BYTES", 0)
    if not with_gates:
        monkeypatch.setattr(time_maps, "gated_jacobians", lambda *_: None)
    maps = audited(model)
    assert maps.growth is not None
    assert dense.growth is not None
    for found, expected in zip(maps.layers, dense.layers, strict=True):
        assert same(found.time_radius, expected.time_radius)
        assert same(found.time_gain, expected.time_gain)
    assert maps.growth.measured_log10 == pytest.approx(dense.growth.measured_log10, abs=0.2)
    assert maps.verdict.label is dense.verdict.label


def test_from_some_size_on_maps_are_kept_however_few_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    model = registry.build("gru", hidden_size=40, num_layers=2)
    dense = audited(model)
    monkeypatch.setattr(local, "MAPS_FROM", 40)
    monkeypatch.setattr(local, "cell_jacobians", None)
    maps = audited(model)
    for found, expected in zip(maps.layers, dense.layers, strict=True):
        assert same(found.time_radius, expected.time_radius)
    assert maps.layers[1].depth_radius is not None
    assert dense.layers[1].depth_radius is not None
    assert maps.layers[1].depth_radius.mean == pytest.approx(dense.layers[1].depth_radius.mean, rel=0.01)
