"""A fit is begun again only where chance may have decided, and the best start comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from lsc_graph.pretraining import restarts
from lsc_graph.pretraining.fit import Fit
from lsc_graph.pretraining.reading import Edge, Reading
from lsc_graph.pretraining.restarts import rescale_with_restarts

EDGE = ("a", "b")


@dataclass(frozen=True)
class OneRadius:
    """A problem whose radius is its only weight."""

    seed: int = 5
    tolerance: float = 0.02
    targets: dict[Edge, float] = field(default_factory=lambda: {EDGE: 0.5})

    def seed_of(self, iteration: int, purpose: int) -> int:
        return 2 * iteration + purpose

    def estimate(self, values: Sequence[Tensor], seed: int, max_std_error: float) -> dict[Edge, Reading]:
        return {EDGE: Reading(EDGE, values[0].double().expand(4), True, None, (1, 1, 1, 1))}


class Starts:
    """Stands in for `rescale`: the outcomes of one start after another, and how each was asked for."""

    def __init__(self, *outcomes: tuple[float, bool, bool]) -> None:
        self.outcomes = list(outcomes)
        self.asked: list[tuple[int, int, Any]] = []

    def __call__(self, problem: Any, values: Any, most: int, report: Any, keep: Any, state: Any) -> Fit:
        radius, is_reached, is_chance = self.outcomes[len(self.asked)]
        self.asked.append((problem.seed, most, state))
        if keep is not None:
            keep({"start": len(self.asked)})
        return Fit([torch.tensor([radius])], 10, is_reached, 1.0, "ended", is_chance=is_chance)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Starts:
    found = Starts(*request.param)
    monkeypatch.setattr(restarts, "rescale", found)
    return found


def fit(most: int = 100, **options: Any) -> Fit:
    return rescale_with_restarts(OneRadius(), [torch.zeros(1)], most, **options)


@pytest.mark.parametrize("starts", [[(0.5, True, True)], [(0.9, False, False)]], indirect=True)
def test_one_start_is_enough_where_it_succeeds_or_where_nothing_was_left_to_chance(starts: Starts) -> None:
    found = fit()
    assert (found.iterations, found.stop_reason) == (10, "ended")
    assert [seed for seed, _, _ in starts.asked] == [5]


@pytest.mark.parametrize("starts", [[(0.9, False, True), (0.5, True, False)]], indirect=True)
def test_the_next_start_sees_other_points_and_has_the_iterations_that_are_left(starts: Starts) -> None:
    found = fit()
    assert found.is_reached
    assert (found.iterations, found.seconds, found.stop_reason) == (20, 2.0, "ended (start 2 of 2)")
    (first, most, _), (second, left, _) = starts.asked
    assert first != second
    assert (most, left) == (100, 90)


@pytest.mark.parametrize(
    "starts", [[(0.9, False, True), (0.6, False, True), (0.8, False, True)]], indirect=True
)
def test_of_starts_that_all_fail_the_nearest_one_comes_out(starts: Starts) -> None:
    found = fit()
    assert float(found.values[0]) == pytest.approx(0.6)
    assert found.stop_reason == "ended (start 2 of 3)"
    assert len(starts.asked) == 3


@pytest.mark.parametrize("starts", [[(0.9, False, True)] * 3], indirect=True)
def test_no_start_is_made_without_iterations(starts: Starts) -> None:
    assert fit(most=20).iterations == 20
    assert len(starts.asked) == 2


@pytest.mark.parametrize("starts", [[(0.9, False, True), (0.5, True, False)]], indirect=True)
def test_an_interrupted_fit_goes_on_in_the_start_that_it_was_in(starts: Starts) -> None:
    kept: list[dict[str, Any]] = []
    whole = fit(keep=kept.append)
    first = len(starts.asked)
    starts.outcomes += starts.outcomes[1:]
    again = fit(resumed=kept[-1])
    assert starts.asked[first:] == [(starts.asked[1][0], 90, {"start": 2})]
    assert (again.iterations, again.stop_reason) == (whole.iterations, whole.stop_reason)
