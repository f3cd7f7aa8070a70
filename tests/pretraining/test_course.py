"""How the largest error of a fit has gone, and when it leads nowhere."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch

from lsc_graph.pretraining.course import Course

EDGE = ("a", "a")
TOLERANCE = 0.02


def course_of(errors: Iterable[float]) -> Course:
    """A course whose weights are the numbers of its iterations."""
    course = Course(TOLERANCE, [torch.tensor(-1.0)])
    for number, error in enumerate(errors):
        course.note(error, [torch.tensor(float(number))], {EDGE: error})
    return course


def test_the_weights_with_the_least_error_are_kept_with_all_their_errors() -> None:
    course = course_of([0.9, 0.3, 0.5])
    assert (course.best, course.since_best, course.best_errors) == (0.3, 1, {EDGE: 0.3})
    assert float(course.best_values[0]) == 1.0


def test_less_by_a_trace_is_no_new_best() -> None:
    assert course_of([0.3, 0.2999]).best == 0.3


def test_steps_are_trusted_less_where_the_error_grows_and_more_and_more_again_where_it_does_not() -> None:
    assert course_of([0.5, 0.4, 0.6]).trust == pytest.approx(0.6)
    assert course_of([0.5, 0.4, 0.6, 0.6]).trust == pytest.approx(0.72)
    assert course_of([2.0**number for number in range(9)]).trust == 0.25


def test_errors_that_are_all_far_larger_than_the_best_one_have_gone_astray() -> None:
    assert course_of([0.1, *[5.0] * 6]).has_gone_astray()
    assert not course_of([0.1, *[5.0] * 5]).has_gone_astray()
    assert not course_of([0.1, *[5.0] * 5, 0.2]).has_gone_astray()


def test_a_fit_leads_nowhere_after_a_dozen_iterations_in_vain_unless_its_errors_fall() -> None:
    assert course_of([0.3, *[0.4] * 12]).leads_nowhere()
    assert not course_of([0.3, *[0.4] * 11]).leads_nowhere()
    assert not course_of([0.3, *[0.9] * 6, *[0.5] * 6]).leads_nowhere()


def test_within_tolerance_only_noise_is_waited_for_and_for_longer() -> None:
    assert not course_of([0.02, *[0.025] * 35]).leads_nowhere()
    assert course_of([0.02, *[0.025] * 36]).leads_nowhere()


def test_from_other_weights_it_begins_again_with_the_trust_that_it_had() -> None:
    course = course_of([0.5, 0.4, 0.6])
    course.begin_again([torch.tensor(7.0)], 0.2)
    assert (course.best, course.since_best, course.recent) == (0.2, 0, [])
    assert float(course.best_values[0]) == 7.0
    assert course.trust == pytest.approx(0.6)


def test_targets_are_near_once_ten_tolerances_were_enough() -> None:
    assert not course_of([0.5, 0.21]).is_near
    assert course_of([0.5, 0.19, 0.9]).is_near


def test_its_state_makes_it_again() -> None:
    course = course_of([0.5, 0.4, 0.6])
    assert vars(Course(**course.state())) == vars(course)
