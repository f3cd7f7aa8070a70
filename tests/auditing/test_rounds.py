"""Samples in rounds: until the precision is reached, or the budget is spent, which is then said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lsc_graph.models import registry

from lsc_graph.audit_model import audit
from lsc_graph.auditing import rounds as rounds_module
from lsc_graph.auditing.rounds import Rounds, standard_errors
from lsc_graph.errors import TimeLimitError, UsageError
from lsc_graph.results import Analysis, LayerFacts, Statistics


def layer(error: float) -> tuple[LayerFacts, ...]:
    value = Statistics(1.0, error, 0.9, 1.1, 10)
    return (LayerFacts("layer_0", "", None, 4, value, None, (), (), None, None, ()),)


def test_rounds_follow_the_law_of_large_numbers_and_then_stop() -> None:
    rounds = Rounds(0.01, 4, 1000, 60)
    taken = []
    while rounds.next:
        taken.append(rounds.next)
        rounds.note(layer(0.1 / sum(taken) ** 0.5))
    result = rounds.result()
    assert result is not None
    assert result.is_reached
    assert 100 <= result.num_samples == sum(taken) <= 130
    assert result.largest_std_error <= 0.01


def test_without_a_precision_there_is_one_round() -> None:
    rounds = Rounds(None, 4, 2, 60)
    rounds.note(layer(9.0))
    assert rounds.next == 0
    assert rounds.result() is None


@pytest.mark.parametrize(
    ("max_samples", "seconds", "words"), [(8, 60.0, "8 samples"), (99, 0.0, "0 seconds")]
)
def test_a_spent_budget_is_named(max_samples: int, seconds: float, words: str) -> None:
    rounds = Rounds(0.01, 4, max_samples, seconds)
    while rounds.next:
        rounds.note(layer(0.5))
    result = rounds.result()
    assert result is not None
    assert not result.is_reached
    assert words in (result.limit or "")


@pytest.mark.parametrize(("precision", "limit"), [(0.0, 9), (-1.0, 9), (float("nan"), 9), (0.1, 3)])
def test_requests_that_make_no_sense_are_refused(precision: float, limit: int) -> None:
    with pytest.raises(UsageError):
        Rounds(precision, 4, limit, 60)


def test_a_time_that_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError):
        Rounds(None, 4, 9, float("nan"))


def audited(name: str, **options: object) -> Analysis:
    return audit(registry.build(name), num_steps=12, **options)


@pytest.mark.parametrize("name", ["gru", "lstm", "tanh_rnn", "alif_smooth"])
def test_an_audit_adds_samples_until_every_radius_is_precise(name: str) -> None:
    coarse = audited(name, num_samples=2)
    largest = max(error for _, error in standard_errors(coarse.layers))
    fine = audited(name, num_samples=2, precision=largest / 3, max_samples=200)
    assert fine.precision is not None
    assert fine.precision.is_reached
    assert fine.precision.num_samples > 2
    assert max(error for _, error in standard_errors(fine.layers)) <= largest / 3
    many = audited(name, num_samples=fine.precision.num_samples)
    assert many.layers == fine.layers  # rounds draw the same samples


def test_a_precision_that_is_not_reached_is_a_warning_and_given_data_are_the_limit(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((5, 12, 1, 8)).astype(np.float32)
    found = audited("gru", data={"x": values}, precision=1e-6)
    assert found.precision is not None
    assert found.precision.num_samples == 5
    assert not found.precision.is_reached
    assert any("precision 1e-06 was not reached" in warning for warning in found.warnings)


def of_seconds(monkeypatch: pytest.MonkeyPatch, *times: float) -> None:
    """As if it were these times, one after another."""
    told = iter(times)
    monkeypatch.setattr(rounds_module.time, "perf_counter", lambda: next(told))


def test_no_sample_is_begun_that_would_not_be_over_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    of_seconds(monkeypatch, 0.0, 1.0, 5.0, 9.0)
    rounds = Rounds(None, 4, 9, 12.0)
    assert [rounds.begin() for _ in range(3)] == [True, True, False]
    rounds.note(layer(0.5), 2)
    assert rounds.warnings == ("2 of 4 samples were measured: 12 seconds were allowed",)


def test_a_first_sample_always_begins() -> None:
    rounds = Rounds(None, 1, 9, 0.0)
    assert rounds.begin()
    rounds.note(layer(0.5), 1)
    assert not rounds.warnings


def test_one_sample_is_not_precise_where_there_was_no_time_for_another() -> None:
    rounds = Rounds(0.1, 4, 9, 0.0)
    assert [rounds.begin(), rounds.begin()] == [True, False]
    rounds.note(layer(0.01), 1)
    result = rounds.result()
    assert result is not None
    assert not result.is_reached
    assert rounds.next == 0


@pytest.mark.parametrize("error", [0.0, 0.01])
def test_one_sample_is_not_precise_where_no_other_was_allowed(error: float) -> None:
    """A single point has no standard error at all, which is given as zero."""
    rounds = Rounds(0.1, 1, 1, 60.0)
    rounds.note(layer(error))
    result = rounds.result()
    assert result is not None
    assert not result.is_reached
    assert result.limit == "1 samples were allowed"
    assert rounds.next == 0


def test_samples_that_would_all_be_the_same_are_not_counted_as_independent() -> None:
    values = np.random.default_rng(0).standard_normal((12, 1, 8)).astype(np.float32)
    found = audited("gru", data={"x": values})
    alone = audited("gru", data={"x": values}, num_samples=1)
    assert found.layers == alone.layers
    radius = found.layers[0].time_radius
    assert radius is not None
    assert radius.num_points == 11
    assert radius.std_error > 0
    assert any("all would be the same" in warning for warning in found.warnings)
    assert not any("all would be the same" in warning for warning in alone.warnings)
    precise = audited("gru", data={"x": values}, precision=1e-6)
    assert precise.precision is not None
    assert not precise.precision.is_reached


def test_without_a_limit_all_samples_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    of_seconds(monkeypatch, *(1000.0 * number for number in range(5)))
    rounds = Rounds(None, 4, 9, None)
    assert all(rounds.begin() for _ in range(4))


def test_an_audit_that_has_no_time_left_reports_the_samples_that_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin = Rounds.begin

    def late(rounds: Rounds) -> bool:
        rounds._longest = 1e6
        return begin(rounds)

    monkeypatch.setattr(Rounds, "begin", late)
    found = audit(registry.build("gru"), num_steps=4, num_samples=3, max_seconds=1e3)
    assert "1 of 3 samples were measured: 1000 seconds were allowed" in found.warnings
    assert found.layers[0].time_radius is not None
    assert found.layers[0].time_radius.num_points == 3


@pytest.mark.parametrize("black_box", ["never", "always"])
@pytest.mark.parametrize("name", ["gru", "feed_forward_relu"])
def test_a_first_sample_that_takes_longer_than_allowed_is_an_error_that_says_so(
    name: str, black_box: str
) -> None:
    with pytest.raises(TimeLimitError) as caught:
        audit(registry.build(name), num_samples=3, max_seconds=1e-3, black_box=black_box)
    assert "No sample could be measured in the time that was allowed" in str(caught.value)
    assert "--max-seconds" in str(caught.value)


def test_differences_that_have_time_for_one_sample_give_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter((True, False))
    monkeypatch.setattr(Rounds, "begin", lambda self: next(told))
    found = audit(registry.build("gru"), num_steps=4, num_samples=3, max_seconds=1e3, black_box="always")
    assert found.layers[0].time_radius is not None
    assert found.layers[0].time_radius.num_points == 3


def test_samples_that_data_repeats_are_named_for_their_standard_errors() -> None:
    own = np.random.default_rng(0).standard_normal((2, 12, 1, 8)).astype(np.float32)
    found = audited("gru", data={"x": own[[0, 1, 0, 0]]}, num_samples=4)
    assert any(warning.startswith("2 of the 4 samples are equal to others") for warning in found.warnings)
    apart = audited("gru", data={"x": own}, num_samples=2)
    assert not any("equal to others" in warning for warning in apart.warnings)
