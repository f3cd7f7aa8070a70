"""What steps meant and what came of them."""

from __future__ import annotations

import pytest

from lsc_graph.pretraining.trail import Trail

EDGE, OTHER = ("a", "a"), ("a", "b")


def trail_of(came: float, count: int = 5) -> Trail:
    """Steps that were each to lower a log radius by 0.3."""
    trail = Trail()
    for number in range(count):
        trail.read({EDGE: -came * number})
        trail.plan({EDGE: -0.3})
    trail.read({EDGE: -came * count, OTHER: 0.0})
    return trail


def test_what_the_last_steps_meant_and_did_is_summed() -> None:
    num_steps, meant, came = trail_of(0.05).outcome(EDGE, 3)
    assert num_steps == 3
    assert (meant, came) == (pytest.approx(-0.9), pytest.approx(-0.15))
    assert trail_of(0.05).outcome(EDGE)[0] == 5
    assert trail_of(0.05).outcome(OTHER) == (0, 0.0, 0.0)


def test_only_a_radius_that_does_not_follow_stands_still() -> None:
    assert trail_of(0.01).stands_still(EDGE)
    assert trail_of(-0.1).stands_still(EDGE)
    assert not trail_of(0.1).stands_still(EDGE)
    assert not trail_of(0.01, count=4).stands_still(EDGE)


def test_its_state_makes_it_again() -> None:
    assert Trail(**trail_of(0.05).state()) == trail_of(0.05)
