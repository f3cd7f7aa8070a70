"""The paper's procedure."""

from __future__ import annotations

import pytest
import torch
from pretraining_problems import problem_of

from lsc_graph.pretraining import paper
from lsc_graph.pretraining.paper import LARGEST, SMALLEST, PaperDescent, owners_of
from lsc_graph.pretraining.trainable import as_trained

pytest.importorskip("pytorch_optimizer")


def test_recurrent_weights_belong_to_radii_in_time_and_input_weights_to_those_in_depth() -> None:
    problem = problem_of("tanh_rnn")
    values = [value.requires_grad_(True) for value in as_trained(problem.weights)]
    owners = owners_of(values, problem.read(values, 2, 6, 0))
    of_label = {problem.weights[index].label: edge for index, edge in owners.items()}
    for number in range(3):
        layer = f"layer_{number}"
        assert of_label[f"{layer}.weight_hh"] == (layer, layer)
        if number:
            assert of_label[f"{layer}.weight_ih"] == (f"layer_{number - 1}", layer)


@pytest.mark.parametrize("name", ["lru", "alif_smooth"])
def test_vectors_that_set_a_radius_belong_to_it_and_all_owners_rise_with_their_weight(name: str) -> None:
    problem = problem_of(name)
    values = [value.requires_grad_(True) for value in as_trained(problem.weights)]
    readings = problem.read(values, 2, 6, 0)
    owners = owners_of(values, readings)
    assert any(values[index].ndim == 1 and edge[0] == edge[1] for index, edge in owners.items())
    for index, edge in owners.items():
        raised = [value.detach().clone() for value in values]
        raised[index] *= 1.001
        (before,) = (r.mean for r in readings if r.edge == edge)
        (after,) = (r.mean for r in problem.read(raised, 2, 6, 0) if r.edge == edge)
        assert after >= before, (problem.weights[index].label, edge)


def test_multipliers_are_clipped_and_shuffles_keep_every_element(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "SHUFFLE_PROBABILITY", 1.0)
    problem = problem_of("lru", target=100.0)
    descent = PaperDescent(problem, as_trained(problem.weights))
    readings = problem.read(descent.values, 2, 6, 0)
    descent._owners = owners_of(descent.values, readings)
    before = [value.detach().clone() for value in descent.values]
    descent.adjust(readings)
    assert any(before[index].ndim == 1 for index in descent._owners)
    for index, edge in descent._owners.items():
        after, expected = descent.values[index].detach(), before[index] * LARGEST
        torch.testing.assert_close(after.flatten().sort().values, expected.flatten().sort().values)
        if before[index].ndim > 1 and before[index].numel() > 16:
            assert not torch.equal(after, expected), edge
    assert SMALLEST < 1 < LARGEST


def test_it_brings_the_radii_of_a_small_network_near_their_targets() -> None:
    problem = problem_of("tanh_rnn", hidden_size=32)
    fit = PaperDescent(problem, as_trained(problem.weights)).fit(150)
    assert fit.stop_reason == "every radius is at its target"
    readings = problem.estimate(fit.values, 12345, 0.005)
    assert all(abs(r.mean - 0.5) < 0.16 for r in readings.values())
