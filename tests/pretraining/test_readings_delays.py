"""Readings along edges that delays make: as the audit has them, in every form, with their derivatives."""

from __future__ import annotations

import pytest
import torch
from delayed_models import DELAYED, D
from lsc_graph.models.forms import in_form
from pretraining_problems import reader_of

from lsc_graph.audit_model import audit
from lsc_graph.planning import Request
from lsc_graph.prepare import Prepared, prepare
from lsc_graph.pretraining.points import Points
from lsc_graph.results import Form

T = 8
NAMES = ["a window of 3", "token shift", "taps of a layer"]
FORMS = [Form.SCAN, Form.STREAMING, Form.UNROLLED]


def prepared_as(name: str, form: Form) -> Prepared:
    shapes = {"x": (1, D)} if form is Form.STREAMING else {"x": (T, 1, D)}
    steps = T if form is Form.STREAMING else None
    return prepare(in_form(DELAYED[name][0](), form, T), Request(steps, {}, shapes, (), {}))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_readings_at_all_steps_are_the_radii_that_an_audit_finds(name: str, form: Form) -> None:
    prepared = prepared_as(name, form)
    samples = list(enumerate(Points(prepared, {}).draw(5, 3)))
    readings = reader_of(prepared).read({}, samples, T, 0, with_derivative=False)
    shapes = {"x": (1, D)} if form is Form.STREAMING else {"x": (T, 1, D)}
    steps = T if form is Form.STREAMING else None
    model = in_form(DELAYED[name][0](), form, T)
    analysis = audit(model, input_shapes=shapes, num_steps=steps, num_samples=3, seed=5)
    layers = {layer.id: layer for layer in analysis.layers}
    assert {reading.edge for reading in readings} == {
        *((own.id, own.id) for own in analysis.layers),
        *((edge.source, own.id) for own in analysis.layers for edge in own.depth_edges),
    }
    for reading in readings:
        source, target = reading.edge
        (expected,) = (
            [layers[target].time_radius]
            if source == target
            else [edge.radius for edge in layers[target].depth_edges if edge.source == source]
        )
        assert expected is not None
        assert reading.values.numel() == expected.num_points
        assert reading.mean == pytest.approx(expected.mean, rel=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_samples_read_together_are_those_read_alone(name: str, form: Form) -> None:
    prepared = prepared_as(name, form)
    reader = reader_of(prepared)
    samples = list(enumerate(Points(prepared, {}).draw(4, 4)))
    whole = reader.read({}, samples, 5, 9, with_derivative=False)
    parts = [reader.read({}, [sample], 5, 9, with_derivative=False) for sample in samples]
    for number, reading in enumerate(whole):
        alone = torch.cat([own[number].values for own in parts])
        torch.testing.assert_close(reading.values.sort().values, alone.sort().values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_derivatives_are_those_of_finite_differences(name: str, form: Form) -> None:
    prepared = prepared_as(name, form)
    reader = reader_of(prepared)
    sample = list(enumerate(Points(prepared, {}).draw(3, 1)))
    parameters = reader.model.parameters
    start = {own: parameters[own].detach() for own in parameters.names() if parameters[own].requires_grad}
    generator = torch.Generator().manual_seed(2)
    way = {own: 0.1 * torch.randn(value.shape, generator=generator) for own, value in start.items()}

    def moved(along: torch.Tensor | float) -> dict[str, torch.Tensor]:
        return {own: value + along * way[own] for own, value in start.items()}

    along = torch.zeros((), requires_grad=True)
    readings = reader.read(moved(along), sample, T, 3, with_derivative=True)
    step = 1e-3
    above, below = (reader.read(moved(sign * step), sample, T, 3, with_derivative=False) for sign in (1, -1))
    for reading, one, other in zip(readings, above, below, strict=True):
        assert reading.derivative is not None
        (slope,) = torch.autograd.grad(reading.derivative, along, retain_graph=True, allow_unused=True)
        expected = (one.mean - other.mean) / (2 * step)
        assert float(slope) == pytest.approx(expected, rel=0.05, abs=2e-3)
