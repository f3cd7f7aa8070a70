"""Growth that is measured forwards is that of the same products, measured back."""

from __future__ import annotations

import pytest
import torch

from lsc_graph.grid.unroll import GridNode, unroll
from lsc_graph.jacobians.forward import ForwardMeter, is_forward, turned, turned_cells
from lsc_graph.jacobians.grid import EdgeMap
from lsc_graph.jacobians.meter import GrowthMeter
from lsc_graph.layers.cells import CellGraph, DepthEdge, Layer

STEPS = 5


def layer(name: str, size: int, step: int) -> Layer:
    return Layer(name, name, "r", (), size, step)


def cells(step: int) -> CellGraph:
    """Two layers of different widths, the upper one read a step later as well."""
    later = tuple((time, time + 1) for time in range(STEPS - 1))
    edges = (DepthEdge("low", "high"), DepthEdge("low", "high", time_pairs=later))
    return CellGraph((layer("low", 6, step), layer("high", 4, step)), edges, STEPS)


def edges_of(own: CellGraph) -> list[EdgeMap]:
    generator = torch.Generator().manual_seed(0)
    sizes = {layer.id: layer.state_size for layer in own.layers}
    found = []
    for tail, head in unroll(own).edges:
        matrix = torch.randn(sizes[head.layer], sizes[tail.layer], generator=generator, dtype=torch.float64)
        found.append(EdgeMap(tail, head, lambda rows, m=matrix: rows @ m, lambda rows, m=matrix: rows @ m.T))
    return found


@pytest.mark.parametrize("step", [1, -1])
def test_growth_over_the_whole_grid_is_the_same_both_ways(step: int) -> None:
    own = cells(step)
    edges, grid = edges_of(own), unroll(own)
    assert is_forward(edges)
    back = GrowthMeter(own, grid, torch.Generator().manual_seed(0), edges)
    forward = ForwardMeter(own, grid, torch.Generator().manual_seed(0))
    found = []
    for meter in (back, forward):
        meter.add(edges)
        found.append(meter.growth(lambda tail, head: 0.5 if tail.layer == head.layer else 0.25))
    one, other = found
    # As many directions as there are elements: exact both ways.
    assert one.measured_log10 == pytest.approx(other.measured_log10, abs=1e-9)
    assert one.coherent_log10 == pytest.approx(other.coherent_log10)
    assert one.paths_log10 == other.paths_log10
    assert (one.dt, one.dl) == (other.dt, other.dl)


def test_turning_twice_changes_nothing() -> None:
    own = cells(1)
    assert turned_cells(turned_cells(own)) == own
    node = GridNode("low", 1)
    assert turned(turned(node, own), own) == node
