"""What edges' matrices share, and radii of states that are batches."""

from __future__ import annotations

import pytest
import torch
from lsc_graph.models.gru import gru
from lsc_graph.models.lru import lru
from lsc_graph.models.registry import build

from lsc_graph.audit_model import audit
from lsc_graph.pretraining import edge_blocks
from lsc_graph.pretraining.edge_blocks import EdgeBlocks
from lsc_graph.pretraining.job import prepare_job
from lsc_graph.pretraining.targets import Wish
from lsc_graph.pretraining.trainable import as_trained
from lsc_graph.results import Form


def test_edges_of_one_layer_share_a_range_only_where_their_blocks_have_the_same_one() -> None:
    blocks = EdgeBlocks({}, {}, {})
    generator = torch.Generator().manual_seed(0)
    own, wide = torch.randn(64, 9, generator=generator), torch.randn(96, 9, generator=generator)
    first = blocks._basis(("a", "c"), own @ torch.randn(3, 9, 64, generator=generator))
    assert blocks._basis(("b", "c"), own @ torch.randn(3, 9, 64, generator=generator)) is first
    other = blocks._basis(("d", "c"), wide @ torch.randn(3, 9, 96, generator=generator))
    assert other is not None
    assert other.shape == (96, 9)


def test_what_resting_units_showed_is_forgotten_when_they_move() -> None:
    blocks = EdgeBlocks({}, {}, {})
    rows = torch.randn(2, 3, 4, 12, generator=torch.Generator().manual_seed(0))
    rows[:, 2] = rows[:, 0] - 2 * rows[:, 1]
    edge = ("a", "a")
    assert blocks._independent(edge, torch.zeros(2, 12, 12), 4).size == 4
    assert blocks._independent(edge, rows.flatten(1, 2), 4).size == 8
    rows[1, 2] += 1
    assert blocks._independent(edge, rows.flatten(1, 2), 4).size == 12
    assert blocks._independent(edge, rows[:1].flatten(1, 2), 4).size == 8


@pytest.mark.parametrize(("name", "num_states"), [("alif_smooth", 2), ("lstm", 2), ("gru", 1)])
def test_spiking_units_are_read_without_their_spikes(name: str, num_states: int) -> None:
    problem = prepare_job(build(name, num_layers=1, hidden_size=20), Wish("half"), num_steps=6).problem
    problem.read(as_trained(problem.weights), 2, 2, 0)
    (size,) = problem.reader.blocks.sizes.values()
    assert size == num_states * 20


def test_where_no_state_is_a_function_of_others_that_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    ask = edge_blocks.dependent_states
    monkeypatch.setattr(edge_blocks, "dependent_states", lambda *own: asked.append(own) or ask(*own))
    blocks = EdgeBlocks({}, {}, {})
    for seed in range(3):
        matrices = torch.randn(2, 12, 12, generator=torch.Generator().manual_seed(seed))
        assert blocks._independent(("a", "a"), matrices, 4).size == 12
    assert len(asked) == 1


CASES = {
    "fused": (lambda: gru(num_steps=8).model, {"x": (8, 3, 8)}, 8),
    "unrolled": (lambda: gru(form=Form.UNROLLED, num_steps=8).model, {"x": (8, 3, 8)}, None),
    "streaming": (lambda: gru(form=Form.STREAMING, num_steps=8).model, {"x": (3, 8)}, 8),
    "diagonal": (lambda: lru(form=Form.SCAN).model, {"x": (8, 3, 8)}, 8),
    "feed-forward": (lambda: build("feed_forward_sin", hidden_size=16, num_layers=3), {"x": (3, 64)}, None),
}


@pytest.mark.parametrize("name", CASES)
def test_radii_of_states_that_are_batches_are_those_of_their_entries_as_in_audits(name: str) -> None:
    make, shapes, num_steps = CASES[name]
    analysis = audit(make(), num_steps=num_steps, num_samples=3, seed=5, input_shapes=shapes)
    job = prepare_job(make(), Wish("half"), num_steps=num_steps, input_shapes=shapes)
    samples = list(enumerate(job.points.draw(5, 3)))
    readings = job.problem.reader.read({}, samples, 8, 0, with_derivative=False)
    assert readings
    layers = {layer.id: layer for layer in analysis.layers}
    for reading in readings:
        source, target = reading.edge
        edges = (edge.radius for edge in layers[target].depth_edges if edge.source == source)
        expected = layers[target].time_radius if source == target else next(edges)
        assert expected is not None
        assert expected.num_points == 3 * reading.values.numel()
        assert reading.mean == pytest.approx(expected.mean, rel=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_derivatives_of_radii_of_batches_are_those_of_finite_differences(name: str) -> None:
    make, shapes, num_steps = CASES[name]
    problem = prepare_job(make(), Wish("half"), num_steps=num_steps, input_shapes=shapes).problem
    values = as_trained(problem.weights)
    generator = torch.Generator().manual_seed(1)
    changes = [torch.randn(value.shape, generator=generator).to(value) * value.std() for value in values]
    along, step = torch.zeros((), requires_grad=True), 1e-4
    readings = problem.read([v + along * c for v, c in zip(values, changes, strict=True)], 2, 4, seed=3)
    with torch.no_grad():
        above, below = (
            problem.read([v + s * step * c for v, c in zip(values, changes, strict=True)], 2, 4, seed=3)
            for s in (1, -1)
        )
    for reading, one, other in zip(readings, above, below, strict=True):
        assert reading.derivative is not None
        (slope,) = torch.autograd.grad(reading.derivative, along, retain_graph=True)
        assert float(slope) == pytest.approx((one.mean - other.mean) / (2 * step), rel=0.05, abs=5e-3)
