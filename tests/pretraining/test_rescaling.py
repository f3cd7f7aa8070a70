"""What a fit does not look at must not get lost, and what it has once come by neither."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lsc_graph.models.registry import build
from torch import Tensor

from lsc_graph.pretraining import rescaling
from lsc_graph.pretraining.candidates import Candidates
from lsc_graph.pretraining.fit import Progress
from lsc_graph.pretraining.fit_verdicts import REACHED
from lsc_graph.pretraining.gauss_newton import Tracker
from lsc_graph.pretraining.job import prepare_job
from lsc_graph.pretraining.last_step import LastStep
from lsc_graph.pretraining.problem import Problem
from lsc_graph.pretraining.reading import Edge, Reading
from lsc_graph.pretraining.rescaling import _finished, _Run
from lsc_graph.pretraining.targets import Wish
from lsc_graph.pretraining.trail import Trail
from lsc_graph.pretraining.trainable import as_trained

FITTED, LEFT_OUT = ("a", "a"), ("a", "b")
FIRST, BEST, LAST = torch.zeros(1), torch.ones(1), 2 * torch.ones(1)


def reading(edge: Edge, mean: float) -> Reading:
    return Reading(edge, torch.full((4,), mean, dtype=torch.float64), True, None, (1, 1, 1, 1))


def run_with(radii: Mapping[float, Mapping[Edge, float]]) -> _Run:
    """A fit of the first edge alone, of a model whose radii are known by the value of its only weight."""

    def estimate(values: Sequence[Tensor], *_: Any) -> dict[Edge, Reading]:
        return {edge: reading(edge, mean) for edge, mean in radii[float(values[0])].items()}

    problem = SimpleNamespace(
        targets=dict.fromkeys((FITTED, LEFT_OUT), 0.5),
        reader=SimpleNamespace(is_recurrent=True),
        has_surrogate=False,
        in_order=lambda of_edge, edges: torch.tensor([of_edge[edge] for edge in edges], dtype=torch.float64),
        tolerance=0.02,
        estimate=estimate,
        seed_of=lambda iteration, purpose: iteration,
        is_reached=lambda found: abs(found.mean - 0.5) <= 0.02,
        is_as_near_as_known=lambda found: abs(found.mean - 0.5) <= max(0.02, 2 * found.std_error),
        is_sure=lambda found: abs(found.mean - 0.5) <= 0.02,
    )
    run = _Run(cast(Problem, problem), [FIRST], {}, Candidates(cast(Problem, problem)))
    run.edges, run.values, run.course.best_values = [FITTED], [LAST], [BEST]
    run.sensitivities.take(torch.ones(1, 1, dtype=torch.float64), is_near=False)
    run._observe([reading(FITTED, radii[float(LAST)][FITTED])])
    return run


@pytest.mark.parametrize(("left_out", "is_kept"), [(1.0, True), (1.05, True), (8e4, False)])
def test_a_fit_that_reached_its_own_targets_has_not_succeeded_if_it_lost_another_radius(
    left_out: float, is_kept: bool
) -> None:
    first, last = {FITTED: 0.9, LEFT_OUT: 1.0}, {FITTED: 0.5, LEFT_OUT: left_out}
    fit = run_with({0.0: first, 1.0: first, 2.0: last}).result(REACHED)
    assert fit.is_reached is is_kept
    assert float(fit.values[0]) == (2.0 if is_kept else 0.0)


def test_what_comes_out_is_no_worse_than_what_the_fit_has_come_by() -> None:
    best, last = {FITTED: 0.607, LEFT_OUT: 0.5}, {FITTED: 0.638, LEFT_OUT: 0.5}
    fit = run_with({0.0: last, 1.0: best, 2.0: last}).result("stuck")
    assert float(fit.values[0]) == 1.0
    assert fit.reasons[FITTED].startswith("0.107 above")


def test_a_fit_that_is_stuck_goes_on_from_the_best_as_long_as_that_gets_better() -> None:
    best, last = {FITTED: 0.6, LEFT_OUT: 0.5}, {FITTED: 0.9, LEFT_OUT: 0.5}
    run = run_with({0.0: last, 1.0: best, 2.0: last})
    assert run.goes_on()
    assert float(run.values[0]) == 1.0
    assert run.course.best == pytest.approx(0.1)
    assert not run.goes_on()


def test_a_radius_that_was_moved_and_is_moved_by_nothing_any_more_counts() -> None:
    run = run_with({2.0: {FITTED: 0.5, LEFT_OUT: 0.5}})
    run.once_moved, run.unmoved, run._means = {LEFT_OUT}, {LEFT_OUT: "nothing moves it"}, {LEFT_OUT: 9.0}
    assert run._largest_lost() == 8.5


def test_a_fit_that_leads_away_from_its_best_weights_stops() -> None:
    run = run_with({2.0: {FITTED: 0.5, LEFT_OUT: 0.5}})
    run.course.best, run.course.since_best, run.course.recent = 0.1, 6, [0.1, *[5.0] * 6]
    assert run.is_stuck()
    assert "away from the best weights" in run.why_stuck()
    run.course.recent[-1] = 0.2
    assert not run.is_stuck()


def test_a_radius_that_large_steps_do_not_move_is_not_waited_for() -> None:
    run = run_with({2.0: {FITTED: 0.5, LEFT_OUT: 0.5}})
    run.trail = Trail([{FITTED: 0.0}] * 6, [{FITTED: 1.0}] * 5)
    assert not run.is_stuck()
    run.tried[FITTED] = 40
    run.course.since_best = 3
    assert not run.is_stuck()  # the others still come nearer
    run.course.since_best = 4
    assert run.is_stuck()
    assert "a -> a" in run.why_stuck()


def test_a_radius_that_has_come_most_of_its_way_does_not_stand_still() -> None:
    run = run_with({2.0: {FITTED: 0.5, LEFT_OUT: 0.5}})
    for _ in range(6):
        run.trail.read({FITTED: math.log(0.4)})
        run.trail.plan({FITTED: 1.0})
    run._means, run.ways = {FITTED: 0.3}, {FITTED: math.log(0.5 / 0.25)}
    assert run._standing_still() == []  # the fit still comes nearer
    run.course.since_best = 4
    assert run._standing_still() == [FITTED]
    run.ways[FITTED] = math.log(0.5 / 0.05)
    assert run._standing_still() == []


def test_noise_that_no_more_points_can_lessen_ends_a_fit() -> None:
    run = run_with({2.0: {FITTED: 0.5, LEFT_OUT: 0.5}})
    own = reading(FITTED, 0.53)
    run._confirmed = {FITTED: replace(own, values=own.values + torch.tensor([-0.2, 0.2, -0.2, 0.2]))}
    assert run.is_noise_left()
    run._confirmed = {FITTED: own}
    assert not run.is_noise_left()


@pytest.mark.parametrize(("noise", "num_doublings"), [(0.001, 0), (0.03, 2), (1.0, 3)])
def test_points_of_noisy_radii_that_move_are_doubled_at_once_as_far_as_they_can_be_afforded(
    monkeypatch: pytest.MonkeyPatch, noise: float, num_doublings: int
) -> None:
    run = run_with({2.0: {FITTED: 0.5, LEFT_OUT: 0.5}})
    spread = noise * torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    read: list[Mapping[Edge, int]] = []

    def sharpened(readings: Sequence[Reading], *given: Any) -> list[Reading]:
        """Every look has as many points as there were."""
        read.append(given[1])
        return [
            replace(own, values=own.values.repeat(2), sizes=own.sizes * 2) if own.edge in given[1] else own
            for own in readings
        ]

    monkeypatch.setattr(run.problem, "is_free", lambda more: False, raising=False)
    monkeypatch.setattr(run.problem, "sharpened", sharpened, raising=False)
    monkeypatch.setattr(run.problem, "can_afford", lambda more, _: max(more.values()) <= 3, raising=False)
    both = [replace(reading(edge, 0.5), values=0.5 + spread) for edge in (FITTED, LEFT_OUT)]
    fitted, left_out = run._sharpened(both, torch.tensor([True, False]), 7)
    assert read == [{}, *({FITTED: number} for number in range(num_doublings))]
    assert run.doublings == ({FITTED: num_doublings} if num_doublings else {})
    assert (len(fitted.values), len(left_out.values)) == (4 * 2**num_doublings, 4)
    assert (fitted.std_error <= 0.75 * run.problem.tolerance) == (num_doublings < 3)


@pytest.mark.parametrize(("is_predictable", "num_readings"), [(True, 1), (False, 2)])
def test_a_step_that_must_have_led_to_the_targets_is_confirmed_without_more_derivatives(
    monkeypatch: pytest.MonkeyPatch, is_predictable: bool, num_readings: int
) -> None:
    """Every step of this fit ends at the targets, and every confirmation says so."""
    run = run_with({key: {FITTED: 0.5, LEFT_OUT: 0.5} for key in (0.0, 1.0, 2.0)})
    readings: list[int] = []

    def iterate(iteration: int) -> None:
        readings.append(iteration)
        run.history.append(Progress(iteration + 1, {}, 0.0, 0.0))

    monkeypatch.setattr(run, "iterate", iterate)
    monkeypatch.setattr(run, "jumps_off", lambda iteration: False)
    monkeypatch.setattr(run, "move", lambda **_: None)
    monkeypatch.setattr(run, "is_within", lambda: len(readings) > 1)
    monkeypatch.setattr(run, "is_predictable", lambda: is_predictable)
    monkeypatch.setattr(run, "is_confirmed", lambda iteration, look=0: True)
    assert _finished(run, 5, lambda progress: None, None).is_reached
    assert len(readings) == num_readings


@pytest.mark.parametrize(
    ("found", "num_steps", "has_arrived"),
    [
        ([0.502], 0, True),  # where the step was to lead
        ([0.54, 0.502], 1, True),  # one more step by the same derivatives
        ([0.54, 0.53, 0.502], 1, False),  # no longer nearer by much: new derivatives are due
        ([0.54, 0.516, 0.512, 0.5], 2, False),  # so often at most
    ],
)
def test_after_a_short_step_values_alone_are_looked_at_as_long_as_they_lead_nearer(
    monkeypatch: pytest.MonkeyPatch, found: list[float], num_steps: int, has_arrived: bool
) -> None:
    run = run_with({2.0: {FITTED: 0.6, LEFT_OUT: 0.5}})
    run._means = {FITTED: 0.6}
    run._std_errors = {FITTED: 0.001}
    moves, left = [], list(found)

    def move(*, is_sure: bool = False) -> None:
        moves.append(is_sure)
        assert run.tracker.error is not None
        changes = -run.tracker.error
        run._last = cast(LastStep, SimpleNamespace(changes={FITTED: float(changes[0])}))
        run.tracker.predict(changes)

    def estimate(values: Sequence[Tensor], *_: Any, until_off: bool) -> dict[Edge, Reading]:
        return {FITTED: reading(FITTED, left.pop(0))}

    monkeypatch.setattr(run, "move", move)
    monkeypatch.setattr(run.problem, "estimate", estimate)
    monkeypatch.setattr(run.problem, "agrees", lambda own: abs(own.mean - 0.5) <= 0.01, raising=False)
    move()
    assert run.arrives(0) is has_arrived
    assert moves == [False] + [True] * num_steps
    assert len(run.trail.logs) == num_steps


@pytest.mark.parametrize(
    ("std_error", "change", "is_seen"), [(0.001, 0.3, True), (0.1, 0.3, False), (0.001, 0.9, False)]
)
def test_steps_that_are_long_or_whose_radii_scatter_are_followed_by_derivatives(
    monkeypatch: pytest.MonkeyPatch, std_error: float, change: float, is_seen: bool
) -> None:
    run = run_with({2.0: {FITTED: 0.5, LEFT_OUT: 0.5}})
    run._means, run._std_errors = {FITTED: 0.5}, {FITTED: std_error}
    run._last = cast(LastStep, SimpleNamespace(changes={FITTED: change}))
    run.tracker.variance = torch.ones(1, dtype=torch.float64)
    looks: list[int] = []
    monkeypatch.setattr(run, "is_confirmed", lambda iteration, look: bool(looks.append(look)) or True)
    assert run.arrives(0) is is_seen
    assert bool(looks) is is_seen


@pytest.mark.parametrize(
    ("looks", "is_right"),
    [
        ([(0.502, 0.006)], True),
        ([(0.512, 0.006)], False),  # within the tolerance by one standard error only
        ([(0.502, 0.009)], False),  # as sharp as a look, but not as all of them are to be
        ([(0.540, 0.009), (0.509, 0.008)], True),  # the second one alone does not say so
        ([(0.540, 0.009), (0.528, 0.008)], False),
        ([(0.540, 0.009), (0.528, 0.008), (0.501, 0.008)], True),
    ],
)
def test_looks_at_radii_without_states_tell_together_where_these_are(
    monkeypatch: pytest.MonkeyPatch, looks: list[tuple[float, float]], is_right: bool
) -> None:
    run = run_with({2.0: {FITTED: 0.6, LEFT_OUT: 0.5}})
    asked: list[float] = []
    unit = reading(FITTED, 0.0).values + torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    scale = replace(reading(FITTED, 0.0), values=unit).std_error

    def look(values: Sequence[Tensor], seed: int, allowed: float) -> dict[Edge, Reading]:
        asked.append(allowed)
        mean, std_error = looks[len(asked) - 1]
        return {FITTED: replace(reading(FITTED, 0.0), values=mean + std_error / scale * unit)}

    monkeypatch.setattr(run.problem, "look", look, raising=False)
    for number in range(1, len(looks) + 1):
        found = run._sees(0, number)
        if number < len(looks):
            assert not found
            assert run.tracker.error is not None
            run.tracker.predict(-run.tracker.error, is_whole=True)
    assert found is is_right
    assert bool(run._confirmed) is not is_right
    assert asked[0] == pytest.approx(run.problem.tolerance / 2)
    assert all(run.problem.tolerance / 3 < allowed <= asked[0] for allowed in asked[1:])


@pytest.mark.parametrize(
    ("std_error", "is_off", "is_blunt"), [(0.009, False, False), (0.015, False, True), (0.015, True, False)]
)
def test_looks_that_no_points_sharpen_are_not_joined(
    monkeypatch: pytest.MonkeyPatch, std_error: float, is_off: bool, is_blunt: bool
) -> None:
    run = run_with({2.0: {FITTED: 0.6, LEFT_OUT: 0.5}})
    spread = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    scale = replace(reading(FITTED, 0.0), values=spread).std_error
    seen = {FITTED: replace(reading(FITTED, 0.0), values=0.5 + std_error / scale * spread)}
    monkeypatch.setattr(run.problem, "is_surely_off", lambda found: is_off, raising=False)
    monkeypatch.setattr(run.problem, "look", lambda *_: seen, raising=False)
    run.tracker = Tracker()
    run.tracker.observe(torch.zeros(1, dtype=torch.float64), torch.full((1,), 0.02**2, dtype=torch.float64))
    run._sees(0, 1)
    assert run._is_blunt() is is_blunt
    # What was known before counts only where such a look begins nothing anew.
    assert (float(run._spread()[0]) < 0.9 * std_error) is is_blunt


@pytest.mark.parametrize(("radius", "is_predictable"), [(0.6, True), (1.0, False)])
def test_derivatives_go_back_through_time_only_where_states_of_long_ago_are_forgotten(
    radius: float, is_predictable: bool
) -> None:
    radii = {FITTED: radius, LEFT_OUT: 1.0}
    run = run_with(dict.fromkeys((0.0, 1.0, 2.0), radii))
    assert not run.is_predictable()
    run._means = radii
    assert run.is_predictable() is is_predictable


def test_an_error_that_grows_within_its_noise_costs_no_trust() -> None:
    for noise, radius, trust in ((1e-6, 0.55, 0.6), (1.0, 0.55, 1.0), (1.0, 1.0, 0.6)):
        run = run_with({key: {FITTED: 0.55, LEFT_OUT: 0.5} for key in (0.0, 1.0, 2.0)})
        run._means, run.course.recent = {FITTED: radius}, [0.01]
        run.tracker.variance = torch.tensor([noise], dtype=torch.float64)
        run._note(1)
        assert run.course.trust == trust


@pytest.mark.parametrize(
    ("error", "is_predictable", "steps"), [(0.015, True, 1), (0.015, False, 0), (0.005, True, 0)]
)
def test_where_steps_do_what_they_should_one_comes_before_a_confirmation_at_the_edge(
    monkeypatch: pytest.MonkeyPatch, error: float, is_predictable: bool, steps: int
) -> None:
    run = run_with({key: {FITTED: 0.5 + error, LEFT_OUT: 0.5} for key in (0.0, 1.0, 2.0)})
    moves: list[None] = []
    monkeypatch.setattr(run, "iterate", lambda iteration: run.history.append(Progress(1, {}, error, 0.0)))
    monkeypatch.setattr(run, "jumps_off", lambda iteration: False)
    monkeypatch.setattr(run, "move", lambda **_: moves.append(None))
    monkeypatch.setattr(run, "is_predictable", lambda: is_predictable)
    monkeypatch.setattr(run, "is_confirmed", lambda iteration, look=0: True)
    assert _finished(run, 5, lambda progress: None, None).is_reached
    assert len(moves) == steps


def test_iterations_are_counted_over_all_fits_that_leave_out_radii(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first fit gives up a radius after three iterations; the next one is given what is left."""
    seen: list[int] = []
    problem = prepare_job(build("tanh_rnn"), Wish("half"), tolerance=1e-4, num_steps=4).problem
    monkeypatch.setattr(rescaling._Run, "is_stuck", lambda run: run.earlier[0] == 0 and run.iterations == 3)
    monkeypatch.setattr(rescaling._Run, "goes_on", lambda run: False)
    monkeypatch.setattr(rescaling._Run, "in_the_way", lambda run: {run.edges[0]: "in the way"})
    values = as_trained(problem.weights)
    fit = rescaling.rescale(problem, values, 5, lambda progress: seen.append(progress.iteration))
    assert seen == [1, 2, 3, 4, 5]
    assert fit.iterations == 5


@pytest.mark.parametrize(
    ("mean", "is_settled", "is_at_targets"),
    [(0.515, True, True), (0.519, False, True), (0.481, False, True), (0.5198, False, False)],
)
def test_what_independent_points_confirm_need_not_be_nearer_than_the_tolerance(
    mean: float, is_settled: bool, is_at_targets: bool
) -> None:
    """Known to about 0.0005."""
    run = run_with({2.0: {FITTED: mean, LEFT_OUT: 0.5}})
    assert run.is_settled() is is_settled
    assert run.is_at_targets() is is_at_targets
