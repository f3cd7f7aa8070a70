"""What a fit does not look at must not get lost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor

from lsc_graph.pretraining.problem import Problem
from lsc_graph.pretraining.readings import Edge, Reading
from lsc_graph.pretraining.rescaling import _Run

FITTED, LEFT_OUT = ("a", "a"), ("a", "b")


def reading(edge: Edge, mean: float) -> Reading:
    return Reading(edge, torch.full((4,), mean, dtype=torch.float64), True, None, (1, 1, 1, 1))


def run_with(first: list[Tensor], left_out_at_first: float) -> _Run:
    problem = SimpleNamespace(targets={FITTED: 0.5, LEFT_OUT: 0.5}, tolerance=0.02)
    run = _Run(cast(Problem, problem), first, {})
    run.edges = [FITTED]
    found = {FITTED: reading(FITTED, 0.9), LEFT_OUT: reading(LEFT_OUT, left_out_at_first)}
    run._fresh = lambda values: found  # type: ignore[method-assign, assignment]  # no model is run here
    return run


@pytest.mark.parametrize(("left_out", "is_kept"), [(1.0, True), (1.05, True), (8e4, False)])
def test_weights_that_lose_a_radius_outside_the_fit_are_given_up(left_out: float, is_kept: bool) -> None:
    first, last = [torch.zeros(1)], [torch.ones(1)]
    run = run_with(first, 1.0)
    item = ({FITTED: reading(FITTED, 0.5), LEFT_OUT: reading(LEFT_OUT, left_out)}, last)
    ((_, values),) = run._unless_strayed([item])
    assert values is (last if is_kept else first)


@pytest.mark.parametrize(("left_out", "has_strayed"), [(1.0, False), (8e4, True)])
def test_a_fit_that_reached_its_own_targets_has_not_succeeded_if_it_lost_another_radius(
    left_out: float, has_strayed: bool
) -> None:
    run = run_with([torch.zeros(1)], 1.0)
    first, run.values = run._fresh(run.values), [torch.ones(1)]
    last = {FITTED: reading(FITTED, 0.5), LEFT_OUT: reading(LEFT_OUT, left_out)}
    run._fresh = lambda values: last if values is run.values else first  # type: ignore[method-assign, assignment]  # as above
    assert run._has_strayed() is has_strayed
