"""A grid that pushes directions otherwise than the model does is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from lsc_graph.models import registry

from lsc_graph.auditing.forward_check import check_against_pushes
from lsc_graph.auditing.measure import Sequences, Streaming, measured_model
from lsc_graph.errors import AnalysisError
from lsc_graph.grid.unroll import unroll
from lsc_graph.jacobians.forward import ForwardMeter
from lsc_graph.jacobians.grid import EdgeMap
from lsc_graph.jacobians.summary import Summary
from lsc_graph.layers.cells import CellGraph
from lsc_graph.planning import Request
from lsc_graph.prepare import prepare
from lsc_graph.running.sampling import Sample
from lsc_graph.to_torch import black_box
from lsc_graph.to_torch.segment import BlackBoxUse

STEPS = 3
Found = tuple[Sequences | Streaming, Sample, CellGraph, list[EdgeMap]]


@pytest.fixture(params=["gru", "streaming_gru"])
def found(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Found:
    monkeypatch.setattr(black_box, "MAX_INPUT_ELEMENTS", 2)
    is_streaming = request.param == "streaming_gru"
    prepared = prepare(registry.build(request.param, hidden_size=4), Request(STEPS, {}, {}, (), {}))
    model = measured_model(prepared, "cpu", torch.Generator(), BlackBoxUse.ALWAYS)
    assert isinstance(model, (Sequences, Streaming))
    draw = np.random.default_rng(0).standard_normal
    inputs = {name: draw(shape).astype(np.float32) for name, shape in prepared.plan.shapes.items()}
    carried = {own.before for own in prepared.findings.carried}
    initial = {name: value for name, value in inputs.items() if name in carried}
    x = {name: value for name, value in inputs.items() if name not in carried}
    if is_streaming:
        x = {name: np.stack([value] * STEPS) for name, value in x.items()}
    sample = Sample(x, initial)
    with torch.no_grad():
        cells, edges = model.edges(sample, model.run(sample), Summary({}))
    return model, sample, cells, edges


def check(model: Sequences | Streaming, sample: Sample, cells: CellGraph, edges: list[EdgeMap]) -> None:
    meter = ForwardMeter(cells, unroll(cells), torch.Generator().manual_seed(0))
    start = meter.start_everywhere(torch.Generator().manual_seed(1))
    with torch.no_grad():
        check_against_pushes(model, sample, edges, cells, meter.order, start)


def test_a_grid_that_is_right_passes(found: Found) -> None:
    model, sample, cells, edges = found
    check(model, sample, cells, edges)


def test_a_missing_edge_is_refused(found: Found) -> None:
    model, sample, cells, edges = found
    for number in range(len(edges)):
        with pytest.raises(AnalysisError, match="does not account for the whole derivative"):
            check(model, sample, cells, [*edges[:number], *edges[number + 1 :]])


def test_a_wrong_block_is_refused(found: Found) -> None:
    model, sample, cells, edges = found
    push = edges[1].push
    assert push is not None
    wrong = dataclasses.replace(edges[1], push=lambda rows: 1.05 * push(rows))
    with pytest.raises(AnalysisError, match="does not account for the whole derivative"):
        check(model, sample, cells, [edges[0], wrong, *edges[2:]])
