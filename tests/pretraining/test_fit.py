"""What is said of radii that were not brought to their targets."""

from __future__ import annotations

import torch

from lsc_graph.pretraining.fit import why_missed, why_unmoved
from lsc_graph.pretraining.readings import Reading


def reading_of(values: torch.Tensor) -> Reading:
    return Reading(("a", "b"), values.double(), True, None, (1,) * len(values))


def test_a_mean_that_scatters_too_much_is_said_to_be_hardly_known() -> None:
    values = torch.tensor([0.1, 3.0, 0.2, 2.0, 0.3, 0.1, 1.8, 0.5])
    found = why_missed(reading_of(values), 1.05, 0.0)
    assert "8 points" in found
    assert f"known to {reading_of(values).std_error:.3f} only" in found


def test_a_mean_that_is_well_known_is_said_to_be_off() -> None:
    reading = reading_of(0.8 + 0.01 * torch.linspace(-1, 1, 64))
    assert why_missed(reading, 1.0, 0.0).startswith("0.200 below: over 64 points")
    assert why_missed(reading, 0.5, 0.9) == "0.300 above: the weights that move it move other radii as well"


def test_a_zero_jacobian_is_told_from_one_that_nothing_moves() -> None:
    assert "cut" in why_unmoved(reading_of(torch.zeros(4)))
    assert why_unmoved(reading_of(torch.ones(4))) == "no trained weight moves it"
