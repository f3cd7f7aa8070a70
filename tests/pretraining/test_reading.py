"""Readings of samples as one, and the standard error of their mean."""

from __future__ import annotations

import pytest
import torch

from lsc_graph.pretraining.reading import Edge, Reading, of_all
from lsc_graph.pretraining.spread_times import spread_times


def test_drift_along_a_sequence_is_no_noise() -> None:
    drift = torch.linspace(2.0, 0.5, 64, dtype=torch.float64)
    values, sizes = [], []
    for index in range(16):
        times = spread_times(64, 4, 3, index)
        values.append(drift[times])
        sizes.append(len(times))
    reading = Reading(("a", "a"), torch.cat(values), True, None, tuple(sizes))
    assert reading.mean == pytest.approx(1.25, abs=0.02)
    assert abs(reading.mean - 1.25) < 3 * reading.std_error + 0.005
    assert reading.std_error < 0.2 * float(reading.values.std()) / 8


def test_the_standard_error_is_right_for_samples_of_different_lengths_that_differ_as_wholes() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = (2,) * 32 + (16,) * 32
    found, claimed = [], []
    for _ in range(400):
        own = [
            torch.randn((), dtype=torch.float64, generator=generator)
            + torch.randn(size, dtype=torch.float64, generator=generator)
            for size in sizes
        ]
        reading = Reading(("a", "a"), torch.cat(own), True, None, sizes)
        found.append(reading.mean)
        claimed.append(reading.std_error)
    # 400 means know their own scatter to some 3.5 %.
    assert sum(claimed) / 400 == pytest.approx(float(torch.tensor(found).std()), rel=0.12)


def test_a_few_samples_that_agree_by_chance_do_not_make_a_mean_sharp() -> None:
    values = torch.tensor([0.3, 0.7], dtype=torch.float64).repeat(8)
    few = Reading(("a", "a"), values, True, None, (2,) * 8)
    assert few.std_error == pytest.approx(float(values.std()) / 4)
    many = Reading(("a", "a"), values.repeat(2), True, None, (2,) * 16)
    assert many.std_error == pytest.approx(0, abs=1e-12)


def test_samples_keep_their_places_where_an_edge_has_no_point() -> None:
    """At a first step there is no edge in time; at several lags an edge has several readings."""

    def of(edge: Edge, *samples: list[float]) -> Reading:
        values = torch.tensor([value for own in samples for value in own], dtype=torch.float64)
        return Reading(edge, values, True, None, tuple(map(len, samples)))

    time, depth, other = ("a", "a"), ("a", "b"), ("b", "b")
    found = of_all(
        [
            [of(depth, [1.0], [2.0]), of(other, [], [5.0]), of(other, [7.0], [])],
            [],
            [of(depth, [3.0]), of(time, [4.0])],
        ]
    )
    samples = {reading.edge: [own.tolist() for own in reading.by_sample()] for reading in found}
    assert samples == {
        depth: [[1.0], [2.0], [3.0]],
        other: [[7.0], [5.0], []],
        time: [[], [], [4.0]],
    }
