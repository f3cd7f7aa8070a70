"""As many fresh points as a question needs, for the edges that need them."""

from __future__ import annotations

from lsc_graph.pretraining.estimate import estimate
from lsc_graph.pretraining.reading import Reading
from lsc_graph.pretraining.trainable import as_trained, by_name
from tests.pretraining_problems import problem_of


def num_points(max_std_error: float, stops_at: float = float("inf")) -> dict[tuple[str, str], int]:
    problem = problem_of("gru")

    def is_sharp(reading: Reading) -> bool:
        return reading.std_error <= max_std_error

    found = estimate(
        problem.reader,
        by_name(problem.weights, as_trained(problem.weights)),
        problem.draw,
        3,
        is_sharp,
        lambda readings: any(reading.mean >= stops_at for reading in readings),
    )
    return {reading.edge: reading.values.numel() for reading in found}


def test_only_means_that_are_not_known_well_enough_get_more_points() -> None:
    few, more = num_points(1.0), num_points(0.002)
    assert len(set(few.values())) <= 2
    assert max(more.values()) > max(few.values())
    assert min(more.values()) < max(more.values())


def test_nothing_more_is_read_once_one_mean_says_enough() -> None:
    assert num_points(0.002, stops_at=0.0) == num_points(1.0)


def test_means_that_scatter_are_read_at_more_steps_of_a_sample() -> None:
    problem = problem_of("gru", num_steps=32)
    lengths: set[int] = set()

    def is_sharp(reading: Reading) -> bool:
        lengths.update(reading.sizes)
        return reading.values.numel() >= 600

    values = by_name(problem.weights, as_trained(problem.weights))
    found = estimate(problem.reader, values, problem.draw, 3, is_sharp)
    assert lengths >= {2, 4, 8, 16}
    assert all(600 <= reading.values.numel() < 2400 for reading in found)
