"""Backpropagation over a grid agrees with the sum over its paths, term by term."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lsc_graph.grid.unroll import GridNode
from lsc_graph.jacobians.depth_maps import DepthMaps
from lsc_graph.jacobians.grid import EdgeMap, MapsPull, dense
from lsc_graph.jacobians.growth import Cotangents, backpropagate, log10_rms, path_lengths, rounding_lengths
from lsc_graph.layers.cells import DepthEdge

SIZE, STEPS = 3, 12


def random_grid(
    num_nodes: int, seed: int, scale: float = 1.0
) -> dict[tuple[GridNode, GridNode], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    nodes = [GridNode("layer", index) for index in range(num_nodes)]
    pairs = [(a, b) for i, a in enumerate(nodes) for b in nodes[i + 1 :]]
    kept = [pair for pair in pairs if torch.rand(1, generator=generator) < 0.7]
    return {pair: scale * torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64) for pair in kept}


def path_products(
    blocks: dict[tuple[GridNode, GridNode], torch.Tensor], source: GridNode, target: GridNode
) -> list[torch.Tensor]:
    """The product of the local Jacobians along every path, by enumeration."""
    graph = nx.DiGraph(list(blocks))
    if source not in graph or target not in graph:
        return []
    products = []
    for path in nx.all_simple_paths(graph, source, target):
        product = torch.eye(SIZE, dtype=torch.float64)
        for edge in pairwise(path):
            product = blocks[edge] @ product
        products.append(product)
    return products


def edge_maps(blocks: dict[tuple[GridNode, GridNode], torch.Tensor]) -> list[EdgeMap]:
    return [EdgeMap(tail, head, dense(block)) for (tail, head), block in blocks.items()]


@settings(max_examples=40, deadline=None)
@given(num_nodes=st.integers(2, 6), seed=st.integers(0, 10_000))
def test_the_gradient_is_the_sum_of_the_products_along_all_paths(num_nodes: int, seed: int) -> None:
    blocks = random_grid(num_nodes, seed)
    nodes = [GridNode("layer", index) for index in range(num_nodes)]
    start = torch.randn(2, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = backpropagate(edge_maps(blocks), nodes, {nodes[-1]: start})
    for node in nodes[:-1]:
        products = path_products(blocks, node, nodes[-1])
        if not products:
            assert node not in found
            continue
        expected = start @ sum(products)
        actual = found[node].unit * torch.pow(10.0, found[node].log10_norm)[:, None]
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_with_random_signs_the_squares_of_all_paths_add_up() -> None:
    blocks = random_grid(6, 3)
    nodes = [GridNode("layer", index) for index in range(6)]
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(1, SIZE, dtype=torch.float64, generator=generator)
    found = backpropagate(edge_maps(blocks), nodes, {nodes[-1]: vector.expand(40_000, SIZE)}, generator)
    products = path_products(blocks, nodes[0], nodes[-1])
    assert len(products) > 4
    expected = sum(float((vector @ product).square().sum()) for product in products)
    plain = float((vector @ sum(products)).square().sum())
    measured = 10 ** (2 * log10_rms(found[nodes[0]].log10_norm))
    assert measured == pytest.approx(expected, rel=0.05)
    assert abs(plain - expected) > 0.2 * expected  # the cross terms matter here


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_neither_explosion_nor_decay_leaves_the_range_of_floats(scale: float) -> None:
    nodes = [GridNode("layer", index) for index in range(100)]
    block = scale * torch.eye(SIZE, dtype=torch.float64)
    edges = [EdgeMap(a, b, dense(block)) for a, b in pairwise(nodes)]
    start = torch.ones(1, SIZE, dtype=torch.float64)
    found = backpropagate(edges, nodes, {nodes[-1]: start})
    expected = 99 * math.log10(scale) + 0.5 * math.log10(SIZE)
    assert float(found[nodes[0]].log10_norm) == pytest.approx(expected, rel=1e-9)


def test_adding_zero_changes_nothing_and_opposite_vectors_cancel() -> None:
    vectors = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    one, zero = Cotangents.of(vectors), Cotangents.of(torch.zeros_like(vectors))
    assert float((one + zero).log10_norm) == pytest.approx(math.log10(5.0))
    assert float((zero + zero).log10_norm) == -math.inf
    assert float((one + Cotangents.of(-vectors)).log10_norm) == -math.inf


def test_lengths_alone_keep_no_vectors_behind() -> None:
    """A view of no elements would keep the memory of all of them."""
    blocks = random_grid(4, 1)
    nodes = [GridNode("layer", index) for index in range(4)]
    start = {nodes[-1]: torch.randn(2, SIZE, dtype=torch.float64)}
    whole = backpropagate(edge_maps(blocks), nodes, start)
    lengths = backpropagate(edge_maps(blocks), nodes, start, with_vectors=False)
    assert lengths.keys() == whole.keys()
    for node, own in lengths.items():
        assert torch.equal(own.log10_norm, whole[node].log10_norm)
        assert own.unit.untyped_storage().nbytes() == 0


@pytest.mark.parametrize(("span", "num_pulls"), [(1, STEPS), (4, 3), (STEPS, 1)])
@pytest.mark.parametrize("repeats", [False, True])
def test_cotangents_cross_edges_known_by_products_as_they_cross_dense_ones(
    span: int, num_pulls: int, repeats: bool
) -> None:
    """In the order of so many steps at a time, so many go together; what is drawn twice goes one by one."""
    generator = torch.Generator().manual_seed(0)
    time, depth = torch.randn(2, STEPS, SIZE, SIZE, dtype=torch.float64, generator=generator)
    calls = []

    def pull(numbers: Sequence[int], cotangents: torch.Tensor) -> torch.Tensor:
        assert len(set(numbers)) == len(numbers)
        calls.append(numbers)
        return cotangents @ depth[list(numbers)]

    pairs = tuple((t, t) for t in range(STEPS))
    maps = DepthMaps(DepthEdge("low", "high", 0), pairs, (SIZE, SIZE), pull, depth)
    drawn = [t // 2 if repeats else t for t in range(STEPS)]
    own = [(GridNode("low", t), GridNode("high", t)) for t in range(STEPS)]
    through_time = [
        EdgeMap(GridNode(layer, t - 1), GridNode(layer, t), dense(time[t]))
        for layer in ("low", "high")
        for t in range(1, STEPS)
    ]
    by_products = [
        *through_time,
        *(EdgeMap(*ends, MapsPull(maps, n)) for ends, n in zip(own, drawn, strict=True)),
    ]
    by_matrices = [
        *through_time,
        *(EdgeMap(*ends, dense(depth[n])) for ends, n in zip(own, drawn, strict=True)),
    ]
    nodes = [GridNode(layer, t) for layer in ("low", "high") for t in range(STEPS)]
    order = sorted(nodes, key=lambda node: (node.time // span, node.layer == "high", node.time))
    start = {GridNode("high", STEPS - 1): torch.eye(SIZE, dtype=torch.float64)}
    found, expected = (backpropagate(edges, order, start) for edges in (by_products, by_matrices))
    assert found.keys() == expected.keys()
    for node, cotangents in found.items():
        torch.testing.assert_close(cotangents.vectors(), expected[node].vectors())
    assert len(calls) == num_pulls * (2 if repeats and span > 1 else 1)


def test_the_lengths_of_paths_hold_what_nodes_start_from() -> None:
    low, high = GridNode("a", 0), GridNode("a", 1)
    edges = [EdgeMap(low, high, dense(-1e-3 * torch.eye(2, dtype=torch.float64)))]
    start = {node: torch.tensor([[1.0, 0.0]], dtype=torch.float64) for node in (low, high)}
    assert path_lengths(edges, [low, high], start) == pytest.approx({low: 1.001, high: 1.0})


@pytest.mark.parametrize("factor", [1e-7, 1.0, 100.0])
def test_rounding_errors_are_as_small_as_the_edges_that_they_come_along(factor: float) -> None:
    """A weak edge makes small errors, and a strong one large ones; none is lost on the way."""
    nodes = [GridNode("a", time) for time in range(4)]
    block = factor * torch.eye(50, dtype=torch.float64)
    edges = [EdgeMap(tail, head, dense(block)) for tail, head in pairwise(nodes)]
    start = {nodes[-1]: torch.full((1, 50), 50**-0.5, dtype=torch.float64)}
    found = rounding_lengths(edges, nodes, start, 1e-6)
    for steps, node in enumerate(reversed(nodes)):
        assert 0.5e-6 < found[node] / factor**steps < 5e-6
