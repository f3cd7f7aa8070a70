"""Radii that are looked at together are those of each matrix, whichever samples there are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lsc_graph.pretraining import joint_radii as joint_radii_module
from lsc_graph.pretraining.joint_radii import Wanted, joint_directions, joint_radii
from lsc_graph.pretraining.smaller import InRange, Matrices
from lsc_graph.spectra import dense


def random(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator) / shape[-1] ** 0.5


def exact(matrices: Tensor) -> Tensor:
    return torch.linalg.eigvals(matrices).abs().amax(1)


def edges(size: int) -> list[Wanted]:
    """Of three samples: one edge without a point in the second, one of smaller matrices, one of few rows."""
    tall = random(size, 12, seed=3)
    wide = InRange(tall @ random(6, 12, size, seed=4), torch.linalg.qr(tall)[0])
    return [
        Wanted(Matrices(random(6, size, size, seed=0)), [2, 2, 2]),
        Wanted(Matrices(random(4, size, size, seed=1)), [2, 0, 2]),
        Wanted(Matrices(random(6, 9, 9, seed=2)), [2, 2, 2]),
        Wanted(wide, [2, 2, 2], True),
    ]


def part_of(wanted: Wanted, sample: int) -> Wanted:
    own = torch.split(wanted.matrices.matrices, list(wanted.sizes))[sample]
    return replace(wanted, matrices=replace(wanted.matrices, matrices=own), sizes=[wanted.sizes[sample]])


@pytest.mark.parametrize("size", [24, 256])
def test_they_are_those_of_dense_eigenvalues(size: int) -> None:
    wanted = edges(size)
    for own, found in zip(wanted, joint_radii(wanted), strict=True):
        torch.testing.assert_close(found.value, exact(own.matrices.matrices), rtol=5e-3, atol=0.0)


@pytest.mark.parametrize("size", [24, 256])
def test_they_do_not_depend_on_which_samples_are_read_at_once(size: int) -> None:
    wanted = edges(size)
    whole = joint_radii(wanted)
    for sample in range(3):
        alone = joint_radii([part_of(own, sample) for own in wanted])
        for own, found, every in zip(wanted, alone, whole, strict=True):
            here = torch.split(every.value, list(own.sizes))[sample]
            torch.testing.assert_close(found.value, here, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("size", [24, 128])
def test_directions_are_those_of_each_edge_alone(size: int) -> None:
    wanted = edges(size)
    for own, found in zip(wanted, joint_directions(wanted), strict=True):
        (alone,) = joint_directions([own])
        torch.testing.assert_close(found.value, alone.value)
        torch.testing.assert_close(found.value, exact(own.matrices.matrices))
        assert found.is_known.tolist() == alone.is_known.tolist()
        change, same = (torch.einsum("pri,prj->pij", d.left, d.right) for d in (found, alone))
        torch.testing.assert_close(change, same, rtol=1e-5, atol=1e-8)


def test_of_no_edge_there_is_nothing() -> None:
    assert joint_radii([]) == joint_directions([]) == []


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
def test_units_that_are_off_are_left_out(share: float) -> None:
    matrices = random(9, 120, 120, seed=5)
    matrices *= torch.rand(9, 120, 1, generator=torch.Generator().manual_seed(6)) < share
    (found,) = joint_radii([Wanted(Matrices(matrices), [3, 3, 3])])
    torch.testing.assert_close(found.value, exact(matrices), rtol=5e-3, atol=0.0)


def test_no_more_rows_are_looked_at_than_are_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, whole = [], joint_radii_module.estimated
    monkeypatch.setattr(joint_radii_module, "estimated", lambda own: seen.append(own.shape) or whole(own))
    matrices = random(4, 120, 120, seed=5)
    for number, count in enumerate((0, 10, 50, 115)):
        matrices[number, count:] = 0
    joint_radii([Wanted(Matrices(matrices), [4])])
    assert sorted((shape[0], shape[-1]) for shape in seen) == [(1, 64), (1, 120), (2, 16)]


def test_how_many_units_are_off_elsewhere_changes_no_radius() -> None:
    matrices = random(9, 120, 120, seed=5)
    matrices *= torch.rand(9, 120, 1, generator=torch.Generator().manual_seed(6)) < 0.5
    (together,) = joint_radii([Wanted(Matrices(matrices), [3, 3, 3])])
    for number in range(9):
        (alone,) = joint_radii([Wanted(Matrices(matrices[number : number + 1]), [1])])
        torch.testing.assert_close(alone.value[0], together.value[number], rtol=1e-6, atol=0.0)


def test_of_small_matrices_eigenvalues_alone_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise AssertionError("eigenvectors")

    monkeypatch.setattr(dense, "eigenvectors", fail)
    matrices = random(6, 20, 20, seed=7)
    (found,) = joint_radii([Wanted(Matrices(matrices), [2, 2, 2])])
    torch.testing.assert_close(found.value, exact(matrices))
