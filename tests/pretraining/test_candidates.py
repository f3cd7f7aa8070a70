"""Of the weights that a fit has come by, the best ones by readings that it never saw."""

from __future__ import annotations

import torch

from lsc_graph.pretraining.candidates import Average, Candidates, missed
from lsc_graph.pretraining.trainable import as_trained
from tests.pretraining_problems import problem_of


def test_the_candidate_with_the_least_loss_is_the_best_and_none_is_read_twice() -> None:
    problem = problem_of("linear_orthogonal_rnn", 0.5)
    values = as_trained(problem.weights)
    half = [value / 2 for value in values]
    candidates = Candidates(problem)
    first = candidates.look_at(values, 1)
    assert candidates.look_at(values, 2) is first
    candidates.look_at(half, 1)
    losses = [candidate.loss(problem.targets) for candidate in candidates.found]
    assert losses == sorted(losses)
    assert candidates.best().loss(problem.targets) == losses[0]


def test_candidates_outlive_an_interruption() -> None:
    problem = problem_of("linear_orthogonal_rnn", 0.5)
    candidates, again = Candidates(problem), Candidates(problem)
    before = candidates.look_at(as_trained(problem.weights), 1)
    again.restore(candidates.state())
    after = again.best()
    assert after.loss(problem.targets) == before.loss(problem.targets)
    edges = list(problem.targets)
    assert missed(after, problem, edges) == missed(before, problem, edges)


def test_an_average_of_weights_that_wander_is_their_mean() -> None:
    average = Average()
    for number in range(4):
        average.add([torch.full((2,), float(number))])
    torch.testing.assert_close(average.values[0], torch.full((2,), 1.5))
