"""Errors that change their sign count less."""

from __future__ import annotations

import torch

from lsc_graph.pretraining.pace import Pace


def shares_after(*errors: float) -> list[float]:
    """The shares of one error that count, reading after reading."""
    pace = Pace()
    return [float(pace.damped(torch.tensor([error], dtype=torch.float64)) / error) for error in errors]


def test_an_error_of_one_sign_counts_in_full() -> None:
    assert shares_after(0.5, 0.4, 0.3) == [1.0, 1.0, 1.0]


def test_every_change_of_sign_makes_it_count_less_down_to_a_tenth() -> None:
    shares = shares_after(*[0.5 * (-1) ** number for number in range(8)])
    torch.testing.assert_close(shares[:3], [1.0, 0.6, 0.36])
    torch.testing.assert_close(shares[-1], 0.1)


def test_it_comes_back_where_the_sign_stays() -> None:
    torch.testing.assert_close(shares_after(0.5, -0.5, -0.4, -0.3, -0.3, -0.3)[1:5], [0.6, 0.72, 0.864, 1.0])


def test_other_radii_begin_in_full() -> None:
    pace = Pace()
    pace.damped(torch.tensor([1.0]))
    pace.damped(torch.tensor([-1.0]))
    assert pace.damped(torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]


def test_its_state_makes_it_again() -> None:
    pace = Pace()
    pace.damped(torch.tensor([1.0, -1.0]))
    again = Pace(**pace.state())
    errors = torch.tensor([-2.0, -2.0])
    torch.testing.assert_close(again.damped(errors), pace.damped(errors))
