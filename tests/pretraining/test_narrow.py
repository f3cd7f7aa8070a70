"""Few rows give the radii of whole matrices, or say that they do not."""

from __future__ import annotations

import torch
from torch import Tensor

from lsc_graph.layers.cells import Layer
from lsc_graph.pretraining.narrow import Looks, NarrowRange, NarrowUnits, saves_much
from lsc_graph.pretraining.reduction import shared_range
from lsc_graph.recurrence.site import StateVariable


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def exact(matrices: Tensor) -> Tensor:
    return torch.linalg.eigvals(matrices).abs().amax(1)


def of_one_range() -> tuple[Tensor, NarrowRange]:
    matrices = random(64, 9) @ random(5, 9, 64, seed=1)
    basis = shared_range(matrices)
    assert basis is not None
    assert saves_much(basis)
    return matrices, NarrowRange(basis)


def two_states(units: int) -> Layer:
    states = tuple(StateVariable(name, (1, units), name, name, None, None) for name in ("re", "im"))
    return Layer("layer_0", "layer_0", None, states, 2 * units, 1)


def of_units(units: Tensor) -> Tensor:
    count = units.shape[1]
    matrices = torch.zeros(len(units), 2, count, 2, count, dtype=torch.float64)
    matrices[:, :, range(count), :, range(count)] = units.movedim(1, 0)
    return matrices.reshape(len(units), 2 * count, 2 * count)


def test_matrices_of_one_range_by_a_few_of_their_rows() -> None:
    matrices, narrow = of_one_range()
    found = narrow.radii(narrow.looks @ matrices)
    assert found is not None
    torch.testing.assert_close(found, exact(matrices), rtol=2e-3, atol=0.0)


def test_a_single_matrix_of_another_range_is_noticed() -> None:
    matrices, narrow = of_one_range()
    matrices[3] += 0.01 * random(64, 64, seed=2)
    assert narrow.radii(narrow.looks @ matrices) is None


def test_rows_of_several_edges_are_told_apart() -> None:
    matrices, narrow = of_one_range()
    other = NarrowRange(torch.linalg.qr(random(64, 3, seed=4)).Q)
    looks = Looks([other, narrow])
    rows = looks.of(narrow, looks.cotangents.double() @ matrices)
    torch.testing.assert_close(rows, narrow.looks.float().double() @ matrices)


def test_units_that_do_not_meet_by_a_row_for_each_of_their_states() -> None:
    matrices, narrow = of_units(random(3, 7, 2, 2)), NarrowUnits(two_states(7))
    assert narrow.looks.shape == (4, 14)
    found = narrow.radii(narrow.looks @ matrices)
    assert found is not None
    torch.testing.assert_close(found, exact(matrices), rtol=1e-6, atol=0.0)
    matrices[1, 0, 3] = 0.1
    assert narrow.radii(narrow.looks @ matrices) is None
