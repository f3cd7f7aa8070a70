"""When a fit gets nowhere."""

from __future__ import annotations

import torch

from lsc_graph.pretraining.course import Course

EDGE = ("a", "a")


def course_of(*errors: float) -> Course:
    course = Course(0.02, [torch.zeros(1)])
    for number, error in enumerate(errors):
        course.note(error, 0.0, [torch.full((1,), float(number))], {EDGE: error})
    return course


def test_the_weights_of_the_smallest_error_are_kept() -> None:
    course = course_of(0.5, 0.1, 0.3)
    assert (course.best, course.since_best, float(course.best_values[0])) == (0.1, 1, 1.0)
    assert course.best_errors == {EDGE: 0.1}


def test_a_fit_whose_errors_fall_is_not_over_and_one_whose_errors_stand_is() -> None:
    assert not course_of(*(0.9**number for number in range(40))).is_over()
    assert course_of(*[0.5] * 13).is_over()
    assert not course_of(*[0.5] * 12).is_over()


def test_within_tolerance_noise_is_waited_for_longer() -> None:
    assert not course_of(*[0.025] * 30).is_over()
    assert course_of(*[0.025] * 40).is_over()


def test_a_fit_that_is_still_better_than_before_on_average_goes_on() -> None:
    assert not course_of(0.1, *[0.5] * 6, *[0.3] * 6).is_over()
    assert course_of(0.1, *[0.5] * 6, *[0.49] * 6).is_over()


def test_only_errors_far_larger_than_the_best_one_have_gone_astray() -> None:
    assert course_of(0.1, *[5.0] * 6).has_gone_astray()
    assert not course_of(0.1, *[5.0] * 5, 0.15).has_gone_astray()


def test_other_weights_are_not_compared_with_errors_of_before() -> None:
    course = course_of(0.1, *[5.0] * 6)
    course.begin_again(0.4)
    assert not course.has_gone_astray()
    assert (course.best, course.since_best) == (0.4, 0)


def test_a_state_goes_on_where_it_was_taken() -> None:
    course, other = course_of(0.5, 0.1, 0.3), course_of()
    other.restore(course.state())
    course.note(0.2, 0.0, [], {})
    other.note(0.2, 0.0, [], {})
    assert other.state() == course.state()


def test_a_fit_that_came_closer_lately_is_held_up_by_no_radius() -> None:
    assert not course_of(0.5, 0.4, *[0.5] * 3).is_held_up()
    assert course_of(0.5, 0.4, *[0.5] * 4).is_held_up()


def test_steps_are_trusted_less_down_to_a_share() -> None:
    course = course_of(0.5)
    course.slow_down()
    assert course.trust == 0.6
    for _ in range(5):
        course.slow_down()
    assert course.trust == 0.25


def test_weights_that_came_near_are_near_only_as_long_as_their_errors_are() -> None:
    assert course_of(0.5, 0.1).is_near
    assert not course_of(0.5, 0.1, 0.5).is_near
    assert course_of(0.5, 0.1, 0.5, 0.15).is_near
