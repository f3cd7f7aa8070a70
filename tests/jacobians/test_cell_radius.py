"""Radii of cells are those of their dense Jacobians, however little of these is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from lsc_graph.models import registry
from onnx import numpy_helper
from single_runs import top_cell

from lsc_graph.errors import AnalysisError
from lsc_graph.jacobians import cell_radius
from lsc_graph.jacobians.cell import cell_jacobians, cell_points
from lsc_graph.jacobians.cell_radius import pull_operator, time_radii
from lsc_graph.jacobians.gated import GatedJacobians
from lsc_graph.jacobians.radius import spectral_radius
from lsc_graph.spectra import choose
from lsc_graph.spectra.estimate import Method
from lsc_graph.spectra.operator import Operator
from lsc_graph.to_torch.loop import CellModule, Trajectory

CELLS = ["tanh_rnn", "gru", "lstm", "lru", "alif_smooth"]
STEPS = 6


def cell_of(name: str, width: int) -> tuple[CellModule, Trajectory]:
    return top_cell(registry.build(name, hidden_size=width), STEPS)


def dense(module: CellModule, trajectory: Trajectory) -> torch.Tensor:
    with torch.no_grad():
        jacobians = cell_jacobians(module, trajectory)
    states = module.cell.layer.states
    return torch.cat([jacobians["before", state.name].flatten(2) for state in states], 2)


@pytest.mark.parametrize("limit", [1, 10_000])
@pytest.mark.parametrize("name", CELLS)
def test_radii_are_those_of_the_dense_jacobians(
    name: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_radius, "GATED_FROM", limit)
    monkeypatch.setattr("lsc_graph.spectra.choose.ARNOLDI_FROM", {"cpu": limit})
    module, trajectory = cell_of(name, 40)
    found = time_radii(module, trajectory, torch.Generator().manual_seed(0))
    exact = spectral_radius(dense(module, trajectory))
    assert bool(found.converged.all())
    torch.testing.assert_close(found.values.mean(), exact.mean(), rtol=5e-3, atol=0)


@pytest.mark.parametrize("method", [Method.DENSE, Method.SQUARING, Method.ARNOLDI])
def test_methods_by_name(method: Method) -> None:
    module, trajectory = cell_of("gru", 40)
    found = time_radii(module, trajectory, torch.Generator().manual_seed(0), method)
    exact = spectral_radius(dense(module, trajectory))
    assert set(found.methods) == {method}
    off = (found.values - exact).abs() / exact
    assert bool((off[found.converged] < 1e-2).all())


@pytest.mark.parametrize("name", CELLS)
def test_the_operator_is_the_transposed_jacobian(name: str) -> None:
    module, trajectory = cell_of(name, 6)
    operator = pull_operator(module, cell_points(module, trajectory))
    matrices = dense(module, trajectory)
    vectors = torch.randn(STEPS, operator.size, generator=torch.Generator().manual_seed(0))
    expected = torch.einsum("pi,pij->pj", vectors, matrices)
    torch.testing.assert_close(operator.apply(vectors), expected, rtol=1e-4, atol=1e-6)


def test_a_cell_without_matrices_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> torch.Tensor:
        raise AnalysisError("a dense Jacobian was built")

    monkeypatch.setattr(cell_radius, "_dense", refuse)
    monkeypatch.setattr(GatedJacobians, "dense", refuse)
    module, trajectory = cell_of("lru", 300)
    assert set(time_radii(module, trajectory, torch.Generator().manual_seed(0)).methods) == {Method.BLOCKS}
    monkeypatch.setattr(cell_radius, "MAX_DENSE", 399)
    module, trajectory = cell_of("gru", 400)
    found = time_radii(module, trajectory, torch.Generator().manual_seed(0), Method.ARNOLDI)
    assert set(found.methods) == {Method.ARNOLDI}


@pytest.mark.parametrize("method", [Method.AUTO, Method.ARNOLDI])
def test_a_large_cell_needs_two_matrices_at_most_to_confirm_the_others(
    method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, trajectory = cell_of("tanh_rnn", 400)
    built, whole = [], GatedJacobians.dense

    def counted(self: GatedJacobians) -> torch.Tensor:
        built.append(self.num_points)
        return whole(self)

    monkeypatch.setattr(GatedJacobians, "dense", counted)
    found = time_radii(module, trajectory, torch.Generator().manual_seed(0), method)
    assert built in ([1], [1, 1])
    assert bool(found.converged.all())
    built.clear()
    monkeypatch.setattr(cell_radius, "MAX_DENSE", 100)
    found = time_radii(module, trajectory, torch.Generator().manual_seed(0), method)
    assert built == []
    assert found.counts() == {"arnoldi": STEPS}


def test_matrices_are_built_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    module, trajectory = cell_of("lstm", 80)
    whole = time_radii(module, trajectory, torch.Generator().manual_seed(0))
    monkeypatch.setitem(choose._GROUP_BYTES, "cpu", 1)
    parts = time_radii(module, trajectory, torch.Generator().manual_seed(0))
    assert len(parts) == len(whole) == STEPS
    torch.testing.assert_close(parts.values, whole.values, rtol=5e-3, atol=0)


def test_where_products_do_not_get_on_matrices_take_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eigenvalues of rotations crowd at one radius."""
    pulls = []
    real = cell_radius.pull_operator

    def counted(module: CellModule, points: Sequence[torch.Tensor]) -> Operator:
        operator = real(module, points)

        def apply(vectors: torch.Tensor) -> torch.Tensor:
            pulls.append(len(vectors))
            return operator.apply(vectors)

        return replace(operator, apply=apply)

    monkeypatch.setattr(cell_radius, "pull_operator", counted)
    monkeypatch.setattr(cell_radius, "GATED_FROM", 10_000)
    size = choose.ARNOLDI_FROM["cpu"]
    model = registry.build("tanh_rnn", hidden_size=size, num_layers=1)
    (weight,) = (t for t in model.graph.initializer if list(t.dims) == [1, size, size])
    turn = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(0))).Q
    weight.CopyFrom(numpy_helper.from_array(turn[None].numpy(), weight.name))
    module, trajectory = top_cell(model, STEPS)
    counts = []
    for at_most in (2**24, 0):
        monkeypatch.setattr(cell_radius, "_MAX_BUILT", at_most)
        pulls.clear()
        found = time_radii(module, trajectory, torch.Generator().manual_seed(0))
        exact = spectral_radius(dense(module, trajectory))
        torch.testing.assert_close(found.values, exact, rtol=5e-3, atol=0)
        counts.append(len(pulls))
    assert counts[0] <= size // 2 < counts[1]
