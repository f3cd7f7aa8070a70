"""Backpropagation over a grid agrees with the sum over its paths, term by term."""

from __future__ import annotations

import math
from itertools import pairwise

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lsc_graph.grid.unroll import GridNode
from lsc_graph.jacobians.grid import EdgeMap, dense
from lsc_graph.jacobians.growth import Cotangents, backpropagate, log10_rms

SIZE = 3


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
