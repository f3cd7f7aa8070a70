"""Readings of radii against the audit's own, and their sensitivities against finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lsc_graph.models.registry import build
from pretraining_problems import prepared_model, problem_of, reader_of

from lsc_graph.audit_model import audit
from lsc_graph.pretraining.points import Points
from lsc_graph.pretraining.reading import Reading
from lsc_graph.pretraining.readings import Reader
from lsc_graph.pretraining.trainable import as_trained
from lsc_graph.pretraining.transitions import find_transitions
from lsc_graph.pretraining.unknowns import Unknowns

MODELS = ["gru", "lstm", "tanh_rnn", "streaming_gru", "unrolled_gru", "lru", "alif_smooth"]


@pytest.mark.parametrize("name", [*MODELS, "feed_forward_sin"])
def test_readings_at_all_steps_are_the_radii_that_an_audit_finds(name: str) -> None:
    options = {"hidden_size": 16, "num_layers": 3} if name == "feed_forward_sin" else {}
    num_steps = None if name == "feed_forward_sin" else 8
    model = build(name, **options)
    analysis = audit(model, num_steps=num_steps, num_samples=3, seed=5)
    prepared = prepared_model(model, num_steps)
    samples = list(enumerate(Points(prepared, {}).draw(5, 3)))
    readings = reader_of(prepared).read({}, samples, 8, 0, with_derivative=False)
    assert readings
    layers = {layer.id: layer for layer in analysis.layers}
    for reading in readings:
        source, target = reading.edge
        if source == target:
            expected = layers[target].time_radius
        else:
            (edge,) = (e for e in layers[target].depth_edges if e.source == source)
            expected = edge.radius
        assert expected is not None
        assert reading.values.numel() == expected.num_points
        assert reading.mean == pytest.approx(expected.mean, rel=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_sensitivities_are_those_of_finite_differences(name: str) -> None:
    problem = problem_of(name)
    reader, values = problem.reader, as_trained(problem.weights)
    transitions = find_transitions(reader, problem.weights, values, problem.draw(0, 1)[0])
    unknowns = Unknowns(problem.weights, problem.widths, transitions)
    direction = torch.randn(len(unknowns), generator=torch.Generator().manual_seed(1))
    along = torch.zeros((), requires_grad=True)
    readings = problem.read(unknowns.apply(values, along * direction), 2, 4, seed=3)
    step = 1e-4  # larger ones cross kinks, where another eigenvalue becomes the largest
    with torch.no_grad():
        above, below = (
            problem.read(unknowns.apply(values, s * step * direction), 2, 4, seed=3) for s in (1, -1)
        )
    for reading, one, other in zip(readings, above, below, strict=True):
        assert reading.derivative is not None
        slope = 0.0
        if reading.derivative.requires_grad:
            (slope,) = torch.autograd.grad(reading.derivative, along, retain_graph=True)
        expected = (one.mean - other.mean) / (2 * step)
        assert float(slope) == pytest.approx(expected, rel=0.05, abs=5e-3)


@pytest.mark.parametrize("name", ["streaming_gru", "lru", "gru"])
def test_runs_for_states_alone_compute_the_same_states_and_no_outputs_that_nothing_reads(name: str) -> None:
    problem = problem_of(name)
    model, sample = problem.reader.model, problem.draw(0, 1)[0]
    whole = model.run(sample)
    with problem.reader.states_alone():
        alone = model.run(sample)
    again = model.run(sample)
    assert bool(alone.outputs) is (name == "gru")  # whose layers read one another's outputs
    assert whole.outputs.keys() == again.outputs.keys()
    for own, other in zip(alone.trajectories, whole.trajectories, strict=True):
        assert all(torch.equal(own.after[key], value) for key, value in other.after.items())


def test_points_do_not_depend_on_which_other_samples_are_read() -> None:
    problem = problem_of("gru")
    samples = list(enumerate(problem.draw(4, 4)))
    whole = problem.reader.read({}, samples, 4, 9, with_derivative=False)
    parts = [problem.reader.read({}, samples[k::2], 4, 9, with_derivative=False) for k in range(2)]
    for number, reading in enumerate(whole):
        own = reading.by_sample()
        for k in range(2):
            for mine, theirs in zip(own[k::2], parts[k][number].by_sample(), strict=True):
                torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("name", [*MODELS, "bidirectional_lstm", "scan_gru", "loop_gru", "feed_forward_relu"])
def test_samples_read_together_are_those_read_alone(name: str) -> None:
    problem = problem_of(name, num_steps=None if name.startswith("feed") else 8)
    samples = list(enumerate(problem.draw(4, 5)))
    whole = problem.reader.read({}, samples, 4, 9, with_derivative=False)
    assert problem.reader.reads_together
    parts = [problem.reader.read({}, [sample], 4, 9, with_derivative=False) for sample in samples]
    for number, reading in enumerate(whole):
        for mine, alone in zip(reading.by_sample(), parts, strict=True):
            torch.testing.assert_close(mine, alone[number].values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [*MODELS, "bidirectional_lstm", "feed_forward_relu"])
def test_edges_read_alone_are_those_of_a_whole_reading(name: str) -> None:
    problem = problem_of(name, num_steps=None if name.startswith("feed") else 8)
    samples = list(enumerate(problem.draw(4, 3)))
    for with_derivative in (False, True):
        for reading in problem.reader.read({}, samples, 4, 9, with_derivative=with_derivative):
            (alone,) = problem.reader.read(
                {}, samples, 4, 9, with_derivative=with_derivative, only=[reading.edge]
            )
            assert (alone.edge, alone.sizes) == (reading.edge, reading.sizes)
            torch.testing.assert_close(alone.values, reading.values, rtol=1e-4, atol=1e-6)


def test_derivatives_of_a_steps_own_effect_stay_small_where_a_network_is_chaotic() -> None:
    problem = problem_of("tanh_rnn", num_steps=40)
    values = [4 * value for value in as_trained(problem.weights)]
    norms, means = [], []
    for through_time in (True, False, True):
        leaves = [value.clone().requires_grad_() for value in values]
        readings = problem.read(leaves, 2, 4, seed=3, through_time=through_time)
        total = torch.stack([r.derivative for r in readings if r.derivative is not None]).sum()
        gradients = torch.autograd.grad(total, leaves, allow_unused=True)
        norms.append(sum(float(g.square().sum()) for g in gradients if g is not None) ** 0.5)
        means.append([reading.mean for reading in readings])
    assert means[0] == means[1] == means[2]
    assert norms[0] == norms[2]  # nothing is left of the other way of reading
    assert 0 < norms[1] < norms[0] / 5


def test_what_was_seen_of_some_weights_serves_all_readings_of_these_and_of_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = problem_of("lru")
    values = as_trained(problem.weights)
    first = problem.read(values, 4, 4, 0, with_derivative=False)
    num_dense: list[int] = []
    read_dense = Reader._read_dense

    def counted(reader: Reader, stretch: Any) -> list[Reading]:
        num_dense.append(len(stretch.times))
        return read_dense(reader, stretch)

    monkeypatch.setattr(Reader, "_read_dense", counted)
    again = problem.read(values, 4, 4, 0, with_derivative=False)
    assert 1 not in num_dense
    assert [r.edge for r in again] == [r.edge for r in first]
    for before, after in zip(first, again, strict=True):
        torch.testing.assert_close(before.values, after.values, rtol=1e-3, atol=1e-6)
    others = [1.5 * value for value in values]
    fresh = problem_of("lru").read(others, 4, 4, 0, with_derivative=False)
    for known, own in zip(fresh, problem.read(others, 4, 4, 0, with_derivative=False), strict=True):
        torch.testing.assert_close(known.values, own.values, rtol=1e-3, atol=1e-6)
    assert 1 in num_dense
