"""Spread over layers equals that of the layers' means."""

from __future__ import annotations

import statistics

import pytest
from lsc_graph.models import registry

from lsc_graph.audit_model import audit
from lsc_graph.auditing.spreads import layer_spreads


def test_spread_over_the_layers_of_a_model() -> None:
    layers = audit(registry.build("tanh_rnn", num_layers=4), num_steps=6, num_samples=2).layers
    found = {own.kind: own for own in layer_spreads(layers)}
    means = {layer.id: layer.time_radius.mean for layer in layers if layer.time_radius}
    time = found["time_radius"]
    assert time.num_layers == 4
    assert time.mean == pytest.approx(statistics.fmean(means.values()))
    assert time.std == pytest.approx(statistics.stdev(means.values()))
    assert means[time.min_layer] == time.min == min(means.values())
    assert means[time.max_layer] == time.max == max(means.values())
    assert found["depth_radius"].num_layers == 3
    assert layer_spreads(()) == ()
