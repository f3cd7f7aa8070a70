"""Depth Jacobians that are known by their products, on a device that is none."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from fake_device import FakeDevice, Held

from lsc_graph.jacobians import depth_maps
from lsc_graph.jacobians.depth_maps import DepthMaps
from lsc_graph.jacobians.radius import spectral_radius
from lsc_graph.layers.cells import DepthEdge

SIZE, STEPS = 24, 5


def maps_of(blocks: torch.Tensor) -> tuple[DepthMaps, list[int]]:
    """Maps by products with blocks, and how many rows each product took."""
    taken: list[int] = []

    def pull(numbers: Sequence[int], cotangents: torch.Tensor) -> torch.Tensor:
        taken.append(cotangents.shape[1])
        return cotangents @ torch.stack([blocks[number] for number in numbers])

    pairs = tuple((time, time) for time in range(STEPS))
    return DepthMaps(DepthEdge("low", "high", 0), pairs, tuple(blocks.shape[1:]), pull, blocks), taken


@pytest.mark.parametrize(("elements", "num_pulls"), [(2**24, 1), (5 * SIZE * 10, 3)])
def test_off_the_cpu_blocks_are_built_in_few_products(
    elements: int, num_pulls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depth_maps, "_MAX_BUILT", elements)
    matrices = torch.randn(STEPS, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with FakeDevice() as device:
        maps, taken = maps_of(Held(matrices))
        assert torch.equal(maps.dense([3, 1]).cpu(), matrices[[3, 1]])
        taken.clear()
        before = device.waits.total()
        estimate = maps.radius(range(STEPS))
        assert device.waits.total() - before <= 1
    assert len(taken) == num_pulls
    torch.testing.assert_close(estimate.values, spectral_radius(matrices), rtol=5e-3, atol=0)
