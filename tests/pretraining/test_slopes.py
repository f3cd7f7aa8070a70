"""How radii answer to the unknowns, from the derivatives that readings carry."""

from __future__ import annotations

import pytest
import torch

from lsc_graph.pretraining import slopes
from lsc_graph.pretraining.reading import NotFiniteError, Reading
from lsc_graph.pretraining.slopes import are_moved, relative_slopes, slopes_of
from lsc_graph.pretraining.trainable import Weight
from lsc_graph.pretraining.unknowns import Unknowns

MATRIX = torch.arange(1.0, 10.0).reshape(3, 3)
UNKNOWNS = Unknowns([Weight(("w",), ("w",), MATRIX), Weight(("z",), ("z",), torch.zeros(3))], set(), {})


def reading(mean: float, derivative: torch.Tensor | None) -> Reading:
    return Reading(("a", "b"), torch.full((4,), mean, dtype=torch.float64), True, derivative)


def leaves() -> list[torch.Tensor]:
    return [MATRIX.clone().requires_grad_(), torch.zeros(3, requires_grad=True)]


@pytest.mark.parametrize("most_bytes", [0, 2**20])
def test_radii_that_depend_on_nothing_have_zero_slopes_in_one_pass_and_one_by_one(
    most_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slopes, "_MOST_BYTES", most_bytes)
    matrix, shifted = leaves()
    readings = [
        reading(2.0, matrix.sum()),
        reading(0.5, None),
        reading(0.5, (3 * shifted).sum()),
        reading(0.5, torch.ones(())),
    ]
    found = slopes_of(readings, [matrix, shifted], UNKNOWNS)
    expected = torch.tensor([[45.0, 0.0], [0.0, 0.0], [0.0, 9.0], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(relative_slopes(readings, found)[0], expected[0] / 2)
    assert are_moved(readings, found).tolist() == [True, False, True, False]


def test_a_radius_of_zero_is_moved_by_nothing() -> None:
    matrix, shifted = leaves()
    found = slopes_of([reading(0.0, matrix.sum())], [matrix, shifted], UNKNOWNS)
    assert are_moved([reading(0.0, None)], found).tolist() == [False]


def test_a_slope_that_is_not_finite_stops() -> None:
    matrix, shifted = leaves()
    with pytest.raises(NotFiniteError):
        slopes_of([reading(1.0, (matrix / 0).sum())], [matrix, shifted], UNKNOWNS)
