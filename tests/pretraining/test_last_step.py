"""A step that lets a radius collapse is taken back for a shorter one; noise is no collapse."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from lsc_graph.pretraining.gauss_newton import Tracker
from lsc_graph.pretraining.last_step import LastStep
from lsc_graph.pretraining.problem import Problem
from lsc_graph.pretraining.reading import Reading
from lsc_graph.pretraining.trail import Trail

EDGE = ("a", "b")
POINTS = (2, 4, 0)


def reading(mean: float) -> Reading:
    return Reading(EDGE, torch.full((4,), mean, dtype=torch.float64), True, None, (4,))


def problem_of(mean_before: float) -> Problem:
    def read(values: Sequence[Tensor], *_: Any, **__: Any) -> list[Reading]:
        assert float(values[0]) == 1
        return [reading(mean_before)]

    return cast(Problem, SimpleNamespace(targets={EDGE: 1.0}, read=read))


def last_step() -> LastStep:
    return LastStep([torch.ones(1)], torch.ones(2), vars(Tracker()), {EDGE: 0.2})


@pytest.mark.parametrize(
    ("now", "before", "has_failed"),
    [(0.01, 0.7, True), (0.2, 0.7, False), (0.01, 0.01, False), (1e-12, 0.7, True)],
)
def test_a_radius_has_collapsed_where_the_same_points_did_not_find_it_as_small_before(
    now: float, before: float, has_failed: bool
) -> None:
    trail = Trail([{EDGE: -0.3}], [{EDGE: 0.2}])
    assert last_step().has_failed(problem_of(before), [reading(now)], trail, POINTS) is has_failed


def test_a_step_is_made_shorter_a_few_times_at_most() -> None:
    trail = Trail([{EDGE: -0.3}], [{EDGE: 0.2}])
    last = last_step().shortened()
    assert last.changes[EDGE] == pytest.approx(0.05)
    assert float(last.step[0]) == 0.25
    assert last.has_failed(problem_of(0.7), [reading(0.01)], trail, POINTS)
    assert not last.shortened().has_failed(problem_of(0.7), [reading(0.01)], trail, POINTS)
