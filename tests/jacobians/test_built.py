"""Large black boxes: the matrices are built once, and are those that torch has."""

from __future__ import annotations

import pytest
import torch
from lsc_graph.models import registry

from lsc_graph.audit_model import audit
from lsc_graph.jacobians import built, depth_maps, local
from lsc_graph.jacobians.built import BuiltJacobians
from lsc_graph.jacobians.depth_maps import DepthMaps
from lsc_graph.layers.cells import DepthEdge


def test_products_with_built_matrices_are_those_of_each() -> None:
    matrices, rows = torch.randn(5, 4, 4), torch.randn(5, 4)
    known = BuiltJacobians(matrices)
    expected = torch.stack([row @ matrix for row, matrix in zip(rows, matrices, strict=True)])
    torch.testing.assert_close(known.pull(rows), expected)
    torch.testing.assert_close(known.operator().apply(rows), expected)
    torch.testing.assert_close(known.at(torch.tensor([2])).pull(rows), rows @ matrices[2])


def maps_of(blocks: torch.Tensor, taken: list[int]) -> DepthMaps:
    def pull(numbers: list[int], cotangents: torch.Tensor) -> torch.Tensor:
        taken.append(len(numbers))
        return torch.bmm(cotangents, blocks[numbers])

    pairs = tuple((time, time) for time in range(len(blocks)))
    return DepthMaps(DepthEdge("a", "b", 0), pairs, tuple(blocks.shape[1:]), pull, blocks)


def test_built_maps_pull_as_those_that_they_are_built_from() -> None:
    blocks, taken = torch.randn(6, 3, 5), list[int]()
    maps = maps_of(blocks, taken).built()
    count = len(taken)
    cotangents = torch.randn(2, 7, 3)
    torch.testing.assert_close(maps.pull([4, 1], cotangents), torch.bmm(cotangents, blocks[[4, 1]]))
    assert len(taken) == count


def test_maps_that_take_too_much_memory_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depth_maps, "MAX_BYTES", 6 * 3 * 5 * 4 - 1)
    taken: list[int] = []
    maps = maps_of(torch.randn(6, 3, 5), taken)
    assert maps.built() is maps
    assert not taken


@pytest.mark.parametrize(("name", "max_bytes"), [("gru", 2**28), ("gru", 1), ("lstm", 2**28)])
def test_large_black_boxes_have_the_radii_and_the_growth_of_torch(
    name: str, max_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "MAPS_FROM", 24)
    for module in (built, depth_maps):
        monkeypatch.setattr(module, "MAX_BYTES", max_bytes)
    model = registry.build(name, hidden_size=24)
    own, other = (audit(model, num_steps=4, num_samples=1, black_box=use) for use in ("always", "never"))
    for mine, its, outcome in zip(own.layers, other.layers, own.radii, strict=False):
        assert mine.time_radius is not None
        assert its.time_radius is not None
        bar = (outcome.max_difference_error or 0.0) + (outcome.max_error or 0.0) + 5e-3
        assert mine.time_radius.mean == pytest.approx(its.time_radius.mean, rel=bar)
        assert mine.time_gain is not None
        assert its.time_gain is not None
        assert mine.time_gain.mean == pytest.approx(its.time_gain.mean, rel=0.02)
    assert own.growth.measured_log10 == pytest.approx(other.growth.measured_log10, abs=0.05)
