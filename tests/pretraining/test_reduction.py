"""Smaller matrices have the radii of those that they stand for."""

from __future__ import annotations

import torch
from torch import Tensor

from lsc_graph.layers.cells import Layer
from lsc_graph.pretraining.eigenpairs import radius_direction, unit_direction, unit_radii
from lsc_graph.pretraining.joint_radii import Wanted, joint_directions, joint_radii
from lsc_graph.pretraining.reduction import covers, joined_range, shared_range, unit_matrices
from lsc_graph.pretraining.smaller import InRange
from lsc_graph.recurrence.site import StateVariable


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def exact(matrices: Tensor) -> Tensor:
    return torch.linalg.eigvals(matrices).abs().amax(1)


def change(left: Tensor, right: Tensor, tangent: Tensor) -> Tensor:
    return torch.einsum("pri,pij,prj->p", left, tangent, right)


def test_matrices_of_one_range_are_small_matrices() -> None:
    matrices = random(64, 20) @ random(5, 20, 64, seed=1)
    basis = shared_range(matrices)
    assert basis is not None
    assert basis.shape == (64, 20)
    assert covers(basis, matrices)
    assert not covers(basis, matrices + 0.01 * random(5, 64, 64, seed=2))
    assert not covers(basis, random(5, 20, 20))
    wanted = [Wanted(InRange(matrices, basis), [5])]
    torch.testing.assert_close(joint_radii(wanted)[0].value, exact(matrices), rtol=2e-3, atol=0.0)
    (found,), whole = joint_directions(wanted), radius_direction(matrices)
    torch.testing.assert_close(found.value, exact(matrices))
    tangent = random(5, 64, 64, seed=3)
    torch.testing.assert_close(
        change(found.left, found.right, tangent), change(whole.left, whole.right, tangent)
    )


def test_rows_in_small_units_are_part_of_the_range() -> None:
    units = torch.eye(32, dtype=torch.float64).expand(3, -1, -1)
    weak = 1e-7 * random(3, 32, 32, seed=4)
    matrices = torch.cat([torch.cat([units, 1e6 * units], 2), torch.cat([weak, 0.8 * units * 1e-7], 2)], 1)
    assert shared_range(matrices) is None
    assert not covers(torch.eye(64, dtype=torch.float64)[:, :32], matrices)


def test_without_a_shared_range_nothing_is_reduced() -> None:
    assert shared_range(random(3, 64, 64)) is None
    assert shared_range(torch.zeros(3, 64, 64)) is None


def test_large_matrices_by_krylov_spaces_are_those_of_all_eigenvalues() -> None:
    matrices, tangent, step = random(6, 110, 110) / 10, random(6, 110, 110, seed=1) / 10, 1e-6
    found = radius_direction(matrices)
    torch.testing.assert_close(found.value, exact(matrices), rtol=2e-3, atol=0.0)
    above, below = exact(matrices + step * tangent), exact(matrices - step * tangent)
    slopes = change(found.left, found.right, tangent)
    is_same = (found.value - exact(matrices)).abs() < 1e-9
    assert int(is_same.sum()) >= 5
    torch.testing.assert_close(slopes[is_same], ((above - below) / (2 * step))[is_same], rtol=1e-3, atol=1e-6)


def test_an_edge_of_the_spectrum_that_no_krylov_space_resolves_is_found_all_the_same() -> None:
    turn, _ = torch.linalg.qr(random(1, 160, 160))
    torch.testing.assert_close(radius_direction(0.7 * turn).value, torch.tensor([0.7], dtype=torch.float64))


def two_states(units: int) -> Layer:
    states = tuple(StateVariable(name, (1, units), name, f"{name}_next", None, None) for name in "ab")
    return Layer("layer_0", "layer_0", None, states, 2 * units, 1)


def test_units_that_do_not_meet_are_blocks() -> None:
    units = random(3, 5, 2, 2)
    matrices = torch.zeros(3, 2, 5, 2, 5, dtype=torch.float64)
    matrices[:, :, range(5), :, range(5)] = units.movedim(1, 0)
    matrices = matrices.reshape(3, 10, 10)
    found = unit_matrices(matrices, two_states(5))
    assert found is not None
    torch.testing.assert_close(found, units)
    direction, whole = unit_direction(found), radius_direction(matrices)
    torch.testing.assert_close(direction.value, exact(matrices))
    torch.testing.assert_close(unit_radii(found).value, exact(matrices))
    tangent = random(3, 10, 10, seed=4)
    torch.testing.assert_close(
        change(direction.left, direction.right, tangent), change(whole.left, whole.right, tangent)
    )
    matrices[2, 0, 3] = 1e-3
    assert unit_matrices(matrices, two_states(5)) is None


def test_a_range_keeps_the_directions_of_units_that_are_off_now() -> None:
    generator = torch.Generator().manual_seed(0)
    into, out = (torch.randn(*shape, generator=generator) for shape in ((60, 8), (8, 60)))
    off = out.clone()
    off[3] = 0
    before, now = shared_range((into @ out)[None]), shared_range((into @ off)[None])
    assert before is not None
    assert now is not None
    assert not covers(now, (into @ out)[None])
    for joined in (joined_range(before, now), joined_range(now, before)):
        assert joined.shape == (60, 8)
        assert covers(joined, torch.stack([into @ out, into @ off]))


def test_a_range_of_other_weights_is_forgotten() -> None:
    generator = torch.Generator().manual_seed(0)
    before, now = (torch.linalg.qr(torch.randn(60, 8, generator=generator))[0] for _ in range(2))
    assert joined_range(before, now) is now
