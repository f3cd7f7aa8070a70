"""Growth predictors: exact where their assumption holds, and equal to their definitions by brute force."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from lsc_graph.grid.unroll import GridNode
from lsc_graph.jacobians.grid import DensePull, EdgeMap, dense
from lsc_graph.jacobians.growth import backpropagate, log10_rms
from lsc_graph.jacobians.predictions import log10_lengths
from lsc_graph.jacobians.predictors import RULES, Known, is_dense, kind_of

SIZE = 4


def grid(time: Sequence[Tensor], depth: Sequence[Tensor]) -> tuple[list[EdgeMap], list[GridNode]]:
    """Two layers over as many steps as there are depth blocks; time[t] leads from step t to t + 1."""
    steps = len(depth)
    order = [GridNode(layer, t) for t in range(steps) for layer in ("low", "high")]
    edges = [EdgeMap(GridNode("low", t), GridNode("high", t), dense(depth[t])) for t in range(steps)]
    for layer in ("low", "high"):
        edges += [
            EdgeMap(GridNode(layer, t), GridNode(layer, t + 1), dense(time[t])) for t in range(steps - 1)
        ]
    return edges, order


def random_blocks(count: int, seed: int, scale: float = 0.5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(scale * torch.randn(count, SIZE, SIZE, generator=generator, dtype=torch.float64))


def start(order: Sequence[GridNode], count: int, seed: int = 0) -> dict[GridNode, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {order[-1]: torch.randn(count, SIZE, generator=generator, dtype=torch.float64)}


@pytest.mark.parametrize("name", ["resampled", "resampled_runs", "mean_jacobian", "mean_and_fluctuation"])
def test_a_linear_network_is_predicted_exactly_from_any_number_of_points(name: str) -> None:
    time, depth = random_blocks(2, 0)
    edges, order = grid([time] * 11, [depth] * 12)
    begin = start(order, 5)
    truth = log10_lengths("resampled", edges, order, begin)
    for num_points in (1, 3, None):
        rule = RULES[name](Known.of(edges, num_points), edges, torch.Generator().manual_seed(1))
        found = log10_lengths(name, rule, order, begin)
        for node in order:
            torch.testing.assert_close(found[node], truth[node], rtol=1e-6, atol=1e-6)


def test_mean_field_is_the_propagation_of_second_moments_by_element() -> None:
    time, depth = random_blocks(5, 1), random_blocks(6, 2)
    edges, order = grid(time, depth)
    begin = start(order, 1)
    known = Known.of(edges, None)
    found = log10_lengths("mean_field", RULES["mean_field"](known, edges, torch.Generator()), order, begin)
    times = known.by_kind["low", "low", 1], known.by_kind["low", "high", 0]
    mean_time, mean_depth = (
        torch.stack([torch.as_tensor(p.matrix) for p in pulls.values() if isinstance(p, DensePull)])
        .square()
        .mean(0)
        for pulls in times
    )
    moments = {node: torch.zeros(SIZE, dtype=torch.float64) for node in order}
    moments[order[-1]] = begin[order[-1]][0] ** 2
    for node in reversed(order):
        if node.layer == "high":
            moments[GridNode("low", node.time)] += mean_depth.T @ moments[node]
        if node.time:
            moments[GridNode(node.layer, node.time - 1)] += mean_time.T @ moments[node]
    for node in order:
        assert float(found[node][0]) == pytest.approx(math.log10(float(moments[node].sum())) / 2, abs=1e-9)


def test_mean_field_is_exact_where_every_unit_stands_alone() -> None:
    diagonal = torch.diag(torch.tensor([0.9, 0.5, -0.3, 1.1], dtype=torch.float64))
    nodes = [GridNode("low", t) for t in range(9)]
    edges = [EdgeMap(a, b, dense(diagonal)) for a, b in pairwise(nodes)]
    begin = start(nodes, 3)
    rule = RULES["mean_field"](Known.of(edges, 2), edges, torch.Generator())
    found = log10_lengths("mean_field", rule, nodes, begin)
    truth = log10_lengths("resampled", edges, nodes, begin)
    for node in nodes:
        torch.testing.assert_close(found[node], truth[node])


def test_mean_and_fluctuation_obey_the_law_of_the_covariance() -> None:
    common = random_blocks(1, 4)[0]
    time = [common + noise for noise in random_blocks(6, 3, 0.25)]
    nodes = [GridNode("low", t) for t in range(7)]
    edges = [EdgeMap(nodes[t], nodes[t + 1], dense(time[t])) for t in range(6)]
    known = Known.of(edges, None)
    matrices = torch.stack([p.matrix for p in known.pulls(("low", "low", 1)) if isinstance(p, DensePull)])
    mean, variance = matrices.mean(0), matrices.var(0)
    covariance = torch.eye(SIZE, dtype=torch.float64)
    for _ in range(6):
        noise = torch.diag(variance.T @ covariance.diagonal())
        covariance = mean.T @ covariance @ mean + noise
    generator = torch.Generator().manual_seed(99)  # noise that has nothing to do with the cotangents
    replaced = RULES["mean_and_fluctuation"](known, edges, generator)
    reached = backpropagate(replaced, nodes, start(nodes, 200_000))[nodes[0]]
    expected = 0.5 * math.log10(float(covariance.trace()))
    assert log10_rms(reached.log10_norm) == pytest.approx(expected, abs=0.01)


def test_resampling_keeps_the_growth_of_independent_steps() -> None:
    time = random_blocks(400, 5)
    nodes = [GridNode("low", t) for t in range(401)]
    edges = [EdgeMap(nodes[t], nodes[t + 1], dense(time[t])) for t in range(400)]
    begin, generator = start(nodes, 20), torch.Generator().manual_seed(0)
    truth = log10_rms(log10_lengths("resampled", edges, nodes, begin)[nodes[0]])
    known = Known.of(edges, None)
    draws = [
        log10_rms(
            log10_lengths("resampled", RULES["resampled"](known, edges, generator), nodes, begin)[nodes[0]]
        )
        for _ in range(8)
    ]
    assert abs(truth) > 10
    assert sum(draws) / 8 == pytest.approx(truth, rel=0.1)


def test_resampling_draws_one_step_for_all_layers() -> None:
    blocks = [float(t + 1) * torch.eye(SIZE, dtype=torch.float64) for t in range(8)]
    edges, _ = grid(blocks[1:], blocks)
    chosen = RULES["resampled"](Known.of(edges, 4), edges, torch.Generator().manual_seed(0))
    by_time: dict[int, set[float]] = {}
    for edge in chosen:
        assert isinstance(edge.pull, DensePull)
        by_time.setdefault(edge.head.time, set()).add(float(edge.pull.matrix[0, 0]))
    assert all(len(values) == 1 for values in by_time.values())
    assert len(set.union(*by_time.values())) > 1


def test_runs_keep_what_successive_steps_have_to_do_with_each_other() -> None:
    """Steps in pairs: what the first of a pair keeps, the second one loses, which no single step shows."""
    keep, lose = (
        torch.diag(torch.tensor([2.0, 0.0, 1.0, 0.0])),
        torch.diag(torch.tensor([0.0, 2.0, 1.0, 0.0])),
    )
    blocks = [own.double() for own in [keep, lose] * 60]

    def is_first(edge: EdgeMap) -> bool:
        assert isinstance(edge.pull, DensePull)
        return torch.equal(edge.pull.matrix, blocks[0])

    nodes = [GridNode("low", t) for t in range(121)]
    edges = [EdgeMap(nodes[t], nodes[t + 1], dense(blocks[t])) for t in range(120)]
    known, generator = Known.of(edges, None), torch.Generator().manual_seed(0)
    chosen = RULES["resampled_runs"](known, edges, generator)
    numbers = [is_first(own) for own in chosen]
    repeated = sum(first == second for first, second in pairwise(numbers))
    assert 0 < repeated < 120 / 8  # a run ends at every sixteenth step, and half of the new ones fit
    alone = RULES["resampled"](known, edges, generator)
    kinds = [is_first(own) for own in alone]
    assert sum(first == second for first, second in pairwise(kinds)) > 120 / 4


def test_runs_of_known_points_are_successive() -> None:
    edges, _ = grid(random_blocks(39, 0), random_blocks(40, 1))
    times = Known.of(edges, 12, run=4).times
    assert len(times) == 12
    assert [second - first for first, second in pairwise(times)].count(1) == 9
    assert 0 < min(times) < max(times) < 39


def test_known_points_are_few_spread_and_away_from_the_ends() -> None:
    edges, _ = grid(random_blocks(19, 0), random_blocks(20, 1))
    known = Known.of(edges, 3)
    assert known.times == (4, 10, 16)
    assert all(len(pulls) == 3 for pulls in known.by_kind.values())
    assert max(Known.of(edges, None, num_steps=8).times) == 6
    assert Known.of(edges[:1], None).times == (0,)
    assert {kind_of(edge) for edge in edges} == set(known.by_kind)


def test_jacobians_that_are_operators_have_no_elements() -> None:
    edges, _ = grid(random_blocks(2, 0), random_blocks(3, 1))
    assert is_dense(edges)
    assert not is_dense([*edges, EdgeMap(edges[0].tail, edges[0].head, lambda v: 2 * v)])
