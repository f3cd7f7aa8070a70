"""Unit blocks and maps of cotangents say the same as the dense local Jacobians of the same run."""

from __future__ import annotations

import pytest
import torch
from lsc_graph.models import registry

from lsc_graph.audit_model import audit
from lsc_graph.auditing.measure import Streaming
from lsc_graph.jacobians import local
from lsc_graph.jacobians.blocks import UnitBlocks
from lsc_graph.jacobians.grid import edge_maps
from lsc_graph.jacobians.local import LocalJacobians, local_jacobians
from lsc_graph.jacobians.radius import gain, spectral_radius
from lsc_graph.jacobians.structure import UnitLayout
from lsc_graph.planning import Request
from lsc_graph.prepare import Prepared, prepare
from lsc_graph.results import Form
from lsc_graph.running.sampling import make_samples

STEPS = 5


def measured(prepared: Prepared) -> LocalJacobians:
    (sample,) = make_samples(
        prepared.plan,
        data={},
        fixed={},
        domains=prepared.domains,
        carried=[carry.before for carry in prepared.findings.carried],
        num_steps=STEPS,
        num_samples=1,
        seed=0,
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model = Streaming(prepared, "cpu", generator)
        return local_jacobians(model.program, model.run(sample), {}, generator)


@pytest.fixture(scope="module")
def lru() -> Prepared:
    return prepare(registry.build("lru", num_layers=3, hidden_size=7), Request(STEPS, {}, {}, (), {}))


def unitwise(prepared: Prepared, monkeypatch: pytest.MonkeyPatch, max_bytes: int = 0) -> LocalJacobians:
    monkeypatch.setattr(local, "_MIN_UNITWISE", 1)
    monkeypatch.setattr(local, "MAX_DENSE_BYTES", max_bytes)
    return measured(prepared)


def test_blocks_are_the_dense_time_jacobians(lru: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = measured(lru)
    found = unitwise(lru, monkeypatch)
    assert not found.time
    assert set(found.units) == set(dense.time)
    for layer_id, blocks in found.units.items():
        torch.testing.assert_close(blocks.dense(), dense.time[layer_id])
        torch.testing.assert_close(blocks.radius().values, spectral_radius(dense.time[layer_id]))
        torch.testing.assert_close(blocks.gain(), gain(dense.time[layer_id]))


@pytest.mark.parametrize("max_bytes", [0, 2**30])
def test_every_edge_pulls_cotangents_back_as_the_dense_one(
    lru: Prepared, monkeypatch: pytest.MonkeyPatch, max_bytes: int
) -> None:
    dense = measured(lru)
    found = unitwise(lru, monkeypatch, max_bytes)
    assert bool(found.maps) == (max_bytes == 0)
    edges = {(e.tail, e.head): e.pull for e in edge_maps(lru.cell_graph, found)}
    expected = {(e.tail, e.head): e.pull for e in edge_maps(lru.cell_graph, dense)}
    assert set(edges) == set(expected)
    cotangents = torch.randn(4, 14, dtype=torch.float64)
    for key, pull in expected.items():
        torch.testing.assert_close(edges[key](cotangents), pull(cotangents), rtol=1e-4, atol=1e-6)


def test_radii_of_maps_are_those_of_the_dense_blocks(lru: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = {(d.edge.source, d.edge.target): d for d in measured(lru).depth}
    for maps in unitwise(lru, monkeypatch).maps:
        blocks = dense[maps.edge.source, maps.edge.target]
        assert maps.pairs == blocks.pairs
        numbers = maps.sampled()
        assert numbers == list(range(STEPS))
        estimate = maps.radius(numbers)
        assert bool(estimate.converged.all())
        torch.testing.assert_close(estimate.values, spectral_radius(blocks.blocks), rtol=5e-3, atol=1e-6)
        gains = maps.gain(numbers, 4000, torch.Generator().manual_seed(0)).values
        torch.testing.assert_close(gains, gain(blocks.blocks), rtol=0.05, atol=1e-6)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_blocks_of_any_width_have_the_radius_and_gain_of_their_matrix(width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    layout = UnitLayout(torch.randperm(6 * width, generator=generator).reshape(width, 6))
    blocks = UnitBlocks(torch.randn(3, 6, width, width, generator=generator, dtype=torch.float64), layout)
    dense = blocks.dense()
    torch.testing.assert_close(blocks.radius().values, spectral_radius(dense))
    torch.testing.assert_close(blocks.gain(), gain(dense))
    cotangents = torch.randn(5, blocks.size, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(blocks.pull(1)(cotangents), cotangents @ dense[1])
    spoiled = UnitBlocks(blocks.blocks.clone(), layout)
    spoiled.blocks[1, 0, 0, 0] = torch.nan
    assert spoiled.radius().converged.tolist() == [True, False, True]


@pytest.mark.parametrize("form", [Form.STREAMING, Form.SCAN])
def test_a_state_of_many_thousands_is_audited_with_its_exact_radius(form: Form) -> None:
    size = 20_000
    options = {"hidden_size": size, "form": form}
    card = registry.card("lru", **options)
    analysis = audit(registry.build("lru", **options), num_steps=4, num_samples=1)
    for layer, radius, of_card in zip(analysis.layers, card.time_radius, card.time_gain, strict=True):
        assert layer.state_size == 2 * size
        assert layer.time_radius is not None
        assert layer.time_gain is not None
        assert layer.time_radius.mean == pytest.approx(radius, rel=1e-5)
        assert layer.time_gain.mean == pytest.approx(of_card, rel=1e-5)
    methods = {own.source == own.target: set(own.methods) for own in analysis.radii}
    assert methods == {True: {"blocks"}, False: {"arnoldi"}}
