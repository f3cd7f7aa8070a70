"""Smaller matrices have the nonzero eigenvalues of the whole ones, and lead back to their eigenvectors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lsc_graph.pretraining.smaller import Dependent, InRange, Matrices, dependent_states, without
from lsc_graph.spectra.dominant import dominant_eigenvectors

UNITS, POINTS = 7, 4


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def spiking(num_states: int = 3, dropped: int = 2) -> Tensor:
    """[POINTS, n, n] of units one of whose states is a function of the others."""
    rows = (
        random(POINTS, num_states, UNITS, num_states * UNITS, seed=num_states) / (num_states * UNITS) ** 0.5
    )
    shares = random(POINTS, num_states, UNITS, 1, seed=1)
    shares = shares + 0.1 * shares.sign()
    others = [own for own in range(num_states) if own != dropped]
    rows[:, dropped] = (shares[:, others] * rows[:, others]).sum(1)
    return rows.flatten(1, 2)


def without_dependent(matrices: Tensor, num_units: int) -> Dependent | None:
    """By the states that the first point shows."""
    dropped = dependent_states(matrices, num_units)
    return without(matrices, num_units, dropped) if dropped else None


def in_range() -> InRange:
    matrices = random(20, 5, seed=0) @ random(POINTS, 5, 20, seed=1)
    basis = torch.linalg.qr(random(20, 5, seed=0))[0]
    return InRange(matrices, basis)


def cases() -> dict[str, Matrices]:
    found = {"whole": Matrices(random(POINTS, 9, 9, seed=2)), "in a range": in_range()}
    for num_states, dropped in ((2, 0), (2, 1), (3, 0), (3, 1), (3, 2)):
        own = without_dependent(spiking(num_states, dropped), UNITS)
        assert own is not None
        assert own.size == (num_states - 1) * UNITS
        found[f"{dropped} of {num_states} states"] = own
    return found


@pytest.mark.parametrize("name", list(cases()))
def test_the_largest_eigenvalues_are_the_same(name: str) -> None:
    whole = cases()[name]
    small = whole.small(torch.float64)
    assert small.shape == (len(whole), whole.size, whole.size)
    every, few = (
        torch.linalg.eigvals(own).abs().sort(1, descending=True)[0] for own in (whole.matrices, small)
    )
    torch.testing.assert_close(every[:, : whole.size], few, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", list(cases()))
def test_eigenvectors_lead_back_to_those_of_the_whole(name: str) -> None:
    whole = cases()[name]
    pair = dominant_eigenvectors(whole.small(torch.float64))
    left, right = whole.left(pair.left)[..., None], whole.right(pair.right)[..., None]
    matrices, values = whole.matrices.to(left.dtype), pair.values[:, None, None]
    torch.testing.assert_close(matrices @ right, values * right, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(matrices.mH @ left, values.conj() * left, rtol=1e-7, atol=1e-7)


def test_two_states_may_be_functions_of_a_third() -> None:
    rows = random(POINTS, 3, UNITS, 3 * UNITS, seed=5)
    rows[:, 0], rows[:, 2] = 2 * rows[:, 1], -rows[:, 1]
    found = without_dependent(rows.flatten(1, 2), UNITS)
    assert found is not None
    assert found.size == UNITS
    radii = [torch.linalg.eigvals(own).abs().amax(1) for own in (found.matrices, found.small(torch.float64))]
    torch.testing.assert_close(*radii)


def test_of_two_that_are_the_same_one_is_left() -> None:
    rows = random(POINTS, 2, UNITS, 2 * UNITS, seed=6)
    rows[:, 1] = rows[:, 0]
    found = without_dependent(rows.flatten(1, 2), UNITS)
    assert found is not None
    assert found.size == UNITS


def test_units_that_rest_at_some_points_are_no_matter() -> None:
    matrices = spiking().reshape(POINTS, 3, UNITS, -1)
    matrices[0, :, :3] = 0
    assert without_dependent(matrices.flatten(1, 2), UNITS) is not None


def test_a_function_at_one_point_alone_is_none() -> None:
    matrices = torch.cat([spiking(), random(1, 3 * UNITS, 3 * UNITS, seed=9)])
    assert dependent_states(matrices, UNITS) == (2,)
    assert without(matrices, UNITS, (2,)) is None
    assert without(matrices[:POINTS], UNITS, (2,)) is not None


def test_what_hardly_differs_from_a_function_is_none() -> None:
    matrices = spiking()
    matrices[:, -1] += 1e-4 * matrices[:, 0]
    assert without_dependent(matrices, UNITS) is None


def test_shares_that_would_multiply_rounding_are_not_taken() -> None:
    rows = random(POINTS, 2, UNITS, 2 * UNITS, seed=7)
    for factor, is_taken in ((50.0, True), (1e7, False)):
        rows[:, 1] = factor * rows[:, 0]
        assert (without(rows.flatten(1, 2), UNITS, (1,)) is not None) == is_taken


def test_rounding_of_single_precision_does_not_hide_a_function() -> None:
    assert without_dependent(spiking().float(), UNITS) is not None


def test_where_no_state_is_a_function_of_others_nothing_is_left_out() -> None:
    assert dependent_states(random(POINTS, 12, 12, seed=8), 4) == ()


def test_one_state_is_no_function_of_no_others() -> None:
    assert dependent_states(random(POINTS, 5, 5, seed=3), 5) == ()


@pytest.mark.parametrize("scale", [1e-4, 1.0, 2e3, 1e6])
def test_states_in_small_units_are_not_taken_for_nothing(scale: float) -> None:
    units = torch.eye(20, dtype=torch.float64)
    weak = random(20, 20, seed=4) / 20**0.5 / scale
    matrix = torch.cat([torch.cat([0.9 * units, scale * units], 1), torch.cat([weak, 0.8 * units], 1)])[None]
    assert dependent_states(matrix, 20) == ()
    assert dependent_states(matrix.float(), 20) == ()


def test_of_states_that_are_functions_of_each_other_that_of_small_shares_is_left_out() -> None:
    rows = random(POINTS, 3, UNITS, 3 * UNITS, seed=8)
    rows[:, 0] = 0.05 * rows[:, 1] - 0.02 * rows[:, 2]
    assert dependent_states(rows.flatten(1, 2), UNITS) == (0,)
