"""Parity is a comparison that can fail, and says where."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lsc_graph.to_torch.parity import ParityCheck, Tolerance, first_difference


def test_agreement_within_tolerance_passes_and_its_largest_error_is_kept() -> None:
    check = ParityCheck(Tolerance(rtol=1e-3, atol=1e-4))
    assert check.compare("y", torch.tensor([1.0, 100.0]), np.array([1.0, 100.05]))
    assert check.result("CPU").max_abs_error == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        ([1.0, 2.0], [1.0, 2.1]),
        ([1.0, float("nan")], [1.0, 2.0]),
        ([1.0, float("inf")], [1.0, 2.0]),
        ([1.0, 2.0], [1.0, float("nan")]),
        ([1.0, 7e4], [1.0, float("inf")]),
        ([1.0], [1.0, 1.0]),
    ],
)
def test_a_difference_a_nan_an_infinity_and_another_shape_fail(
    ours: list[float], reference: list[float]
) -> None:
    check = ParityCheck(Tolerance())
    assert not check.compare("y", torch.tensor(ours), np.array(reference))
    assert "y" in str(check.refusal(None))


def test_values_that_are_infinite_or_nan_on_both_sides_agree() -> None:
    check = ParityCheck(Tolerance())
    values = [float("nan"), float("inf"), -float("inf")]
    assert check.compare("y", torch.tensor(values), np.array(values))


def test_what_the_reference_alone_has_infinite_is_called_an_overflow() -> None:
    check = ParityCheck(Tolerance(rtol=2e-2, atol=1e-2))
    assert not check.compare("y", torch.tensor([1.0, 7e4]), np.array([1.0, float("inf")], np.float16))
    assert "leave the range" in str(check.refusal(None))


def test_integers_and_booleans_are_compared_exactly_enough() -> None:
    check = ParityCheck(Tolerance())
    assert check.compare("flag", torch.tensor([True, False]), np.array([True, False]))
    assert not check.compare("count", torch.tensor([3]), np.array([4]))


def test_the_first_difference_is_the_first_in_the_given_order() -> None:
    ours = {"a": torch.zeros(1), "b": torch.ones(1), "c": torch.ones(1)}
    reference = {"a": np.zeros(1), "b": np.zeros(1), "c": np.zeros(1)}
    assert first_difference(["a", "c", "b"], ours, reference, Tolerance()) == "c"
    assert first_difference(["a"], ours, reference, Tolerance()) is None
