"""Weights that set every unit's radius by themselves, found by their effect."""

from __future__ import annotations

import math

import pytest
import torch
from delayed_models import H, Writer, leaky
from lsc_graph.models.forms import in_form
from pretraining_problems import problem_of

from lsc_graph.pretraining.trainable import as_trained
from lsc_graph.pretraining.transitions import find_transitions, followed
from lsc_graph.results import Form


def test_a_decay_of_each_unit_is_one_and_a_state_whose_slopes_no_weight_moves_has_none() -> None:
    """m' = max(m, z), whose slopes are 0 and 1, beside c' = sigmoid(a) c + (1 - sigmoid(a)) m'."""
    net = Writer()
    largest = net.new("Max", "m0", net.gate("Tanh", ("x", 3)))
    net.kept("m0", largest, H)
    decay = net.drawn(H)
    shown = leaky(net, "c0", net.new("Sigmoid", decay), largest)
    problem = problem_of(in_form(net.step(shown), Form.SCAN, 8))
    found = find_transitions(
        problem.reader, problem.weights, as_trained(problem.weights), problem.draw(0, 1)[0]
    )
    assert [problem.weights[index].label for index in found] == [decay]
    (factor,) = found.values()
    (value,) = (weight.value for weight in problem.weights if weight.label == decay)
    torch.testing.assert_close(factor, 1 / (1 - torch.sigmoid(value)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["tanh_rnn", "feed_forward_sin"])
def test_coupled_units_and_feed_forward_blocks_have_none(name: str) -> None:
    problem = problem_of(name)
    values = as_trained(problem.weights)
    assert find_transitions(problem.reader, problem.weights, values, problem.draw(0, 1)[0]) == {}


def test_eigenvalues_next_to_one_are_halved_in_one_step() -> None:
    """-log |lambda| = exp(theta): one small change of theta says nothing about a way that long."""
    problem = problem_of("lru")
    values, sample = as_trained(problem.weights), problem.draw(0, 1)[0]
    found = find_transitions(problem.reader, problem.weights, values, sample)
    ways = dict.fromkeys(found, math.log(0.5))
    near = [
        torch.full_like(value, math.log(1e-3)) if index in found else value
        for index, value in enumerate(values)
    ]
    slopes = find_transitions(problem.reader, problem.weights, near, sample)
    changed, done = followed(problem.reader, problem.weights, near, sample, slopes, ways)
    assert done == pytest.approx(ways)
    for index in found:
        radii = torch.exp(-changed[index].exp())
        assert 0.1 < float(radii.min()) <= float(radii.max()) < 0.7
        at_once = torch.exp(-(near[index] + torch.tensor(2.0)).exp())
        assert float(at_once.min()) > 0.99


def test_a_way_that_is_too_long_is_gone_in_part_and_said_to_be() -> None:
    problem = problem_of("lru")
    values, sample = as_trained(problem.weights), problem.draw(0, 1)[0]
    found = find_transitions(problem.reader, problem.weights, values, sample)
    near = [
        torch.full_like(value, math.log(1e-9)) if index in found else value
        for index, value in enumerate(values)
    ]
    slopes = find_transitions(problem.reader, problem.weights, near, sample)
    ways = dict.fromkeys(found, math.log(0.5))
    _, done = followed(problem.reader, problem.weights, near, sample, slopes, ways)
    assert all(ways[index] < way < 0 for index, way in done.items())
