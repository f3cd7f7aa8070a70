"""Target radii."""

from __future__ import annotations

import math

import pytest
from cell_graphs import stack

from lsc_graph.errors import UsageError
from lsc_graph.pretraining.targets import Wish, resolve, unbalanced

EDGES = [("l0", "l0"), ("l1", "l1"), ("l0", "l1")]


@pytest.mark.parametrize(
    ("name", "value"), [("half", 0.5), ("one", 1.0), ("sqrt", math.sqrt(0.5)), (None, 0.5), ("auto", 0.6)]
)
def test_balanced_targets_by_name(name: str | None, value: float) -> None:
    found = resolve(Wish(name), stack(2), EDGES, auto=0.6)
    assert found.of_edge == dict.fromkeys(EDGES, pytest.approx(value))


def test_feed_forward_models_default_to_one() -> None:
    found = resolve(Wish(), stack(2, num_steps=1, time_step=0), [("l0", "l1")], auto=None)
    assert found.of_edge == {("l0", "l1"): 1.0}


def test_unbalanced_targets_sum_to_one_and_favour_the_longer_axis() -> None:
    time, depth = unbalanced(30, 10)
    assert (time, depth) == (0.75, 0.25)
    found = resolve(Wish("unbalanced"), stack(2, num_steps=6), EDGES, auto=None)
    assert found.of_edge == {EDGES[0]: 0.75, EDGES[1]: 0.75, EDGES[2]: 0.25}


def test_given_numbers_go_before_names_and_overrides_before_both() -> None:
    wish = Wish("half", time=0.8, overrides=[("l1", None, 0.3), ("name of l1", "time", 0.4)])
    found = resolve(wish, stack(2), EDGES, auto=None)
    assert found.of_edge == {EDGES[0]: 0.8, EDGES[1]: 0.4, EDGES[2]: 0.3}
    assert (found.time, found.depth) == (0.8, 0.5)


@pytest.mark.parametrize(
    "wish",
    [
        Wish("third"),
        Wish("half", time=0.0),
        Wish("half", depth=-1.0),
        Wish("half", time=math.nan),
        Wish("half", overrides=[("nothing*", None, 0.5)]),
        Wish("half", overrides=[("l0", "width", 0.5)]),
    ],
)
def test_what_makes_no_sense_is_refused(wish: Wish) -> None:
    with pytest.raises(UsageError):
        resolve(wish, stack(2), EDGES, auto=None)


@pytest.mark.parametrize("override", [("l0", "depth", 0.3), ("name of l0", "depth", 0.3)])
def test_an_override_of_a_radius_that_is_not_there_is_refused_with_those_that_are(
    override: tuple[str, str, float],
) -> None:
    with pytest.raises(UsageError, match="without a radius in depth") as caught:
        resolve(Wish("half", overrides=[override]), stack(2), EDGES, auto=None)
    assert "l0:time, l1:time, l1:depth" in str(caught.value)
    wide = Wish("half", overrides=[("*", "depth", 0.3)])
    assert resolve(wide, stack(2), EDGES, auto=None).of_edge[EDGES[2]] == 0.3
