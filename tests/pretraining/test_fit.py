"""What is said of radii that were not brought to their targets."""

from __future__ import annotations

import math

import torch

from lsc_graph.pretraining.fit import how_sure, why_missed, why_unmoved
from lsc_graph.pretraining.reading import Reading


def reading_of(values: torch.Tensor, *, is_differentiable: bool = True) -> Reading:
    return Reading(("a", "b"), values.double(), True, None, (1,) * len(values), is_differentiable)


def test_a_mean_that_scatters_too_much_is_said_to_be_hardly_known() -> None:
    reading = reading_of(torch.tensor([0.1, 3.0, 0.2, 2.0, 0.3, 0.1, 1.8, 0.5]))
    found = why_missed(reading, 1.05, 0.02)
    assert "8 points" in found
    assert f"known to {reading.std_error:.3f} only" in found
    needed = int(found.rsplit(" points", 1)[0].rsplit(" ", 1)[1])
    assert needed == math.ceil(8 * (reading.std_error / 0.01) ** 2)


def test_a_mean_that_is_well_known_is_said_to_be_off() -> None:
    reading = reading_of(0.8 + 0.01 * torch.linspace(-1, 1, 64))
    assert why_missed(reading, 1.0, 0.02).startswith("0.200 below: over 64 points")
    found = why_missed(reading, 0.5, 0.02, share=0.9, rival=("b", "c"))
    assert found == "0.300 above: what lowers it moves other radii as well, that of b -> c most of all"
    found = why_missed(reading, 0.5, 0.02, steps=(6, math.log(0.5), math.log(0.9)))
    assert "the last 6 steps were to change it by a factor of 0.5 in all and changed it by 0.9" in found


def test_a_zero_jacobian_is_told_from_one_that_nothing_moves() -> None:
    assert "cut" in why_unmoved(reading_of(torch.zeros(4)))
    assert why_unmoved(reading_of(torch.ones(4))) == "no trained weight moves it"
    assert "derivative is known nowhere" in why_unmoved(reading_of(torch.ones(4), is_differentiable=False))


def test_radii_that_are_at_their_targets_within_noise_alone_are_named_with_their_numbers() -> None:
    assert how_sure([], {}) == ""
    reading = reading_of(1.015 + 0.05 * torch.linspace(-1, 1, 8))
    found = how_sure([reading], {("a", "b"): 1.0})
    assert (
        found == f", as far as samples tell: that of a -> b is 0.015 off, known to ± {reading.std_error:.3f}"
    )
    assert how_sure([reading, reading], {("a", "b"): 1.0}).endswith(" (and 1 more)")
