"""Samples may connect times differently: the united cell graph has every connection that any of them showed."""

from __future__ import annotations

import numpy as np
from unrolled_models import Unroller

from lsc_graph.audit_model import audit
from lsc_graph.cells import CellGraph, DepthEdge, Layer
from lsc_graph.unroll import united

LAYERS = tuple(Layer(name, name, None, (), 2, 1) for name in "ab")


def graph(*edges: DepthEdge) -> CellGraph:
    return CellGraph(LAYERS, edges, 3)


def test_edges_that_are_known_change_nothing() -> None:
    one = graph(DepthEdge("a", "b"), DepthEdge("a", "b", 1))
    assert united(one, graph(DepthEdge("a", "b", 1))) is one


def test_what_differs_is_listed_pair_by_pair() -> None:
    (edge,) = united(graph(DepthEdge("a", "b")), graph(DepthEdge("a", "b", time_pairs=((0, 2),)))).depth_edges
    assert edge.time_pairs == ((0, 0), (1, 1), (0, 2), (2, 2))


def test_a_maximum_over_time_between_two_recurrences_connects_other_times_in_each_sample() -> None:
    """The maximum of a unit passes the gradient of one step only, and the samples disagree on which."""
    net = Unroller()
    steps, size = 6, 3
    x = net.input("x", steps, 1, size)
    value = x
    for _ in range(2):
        weights = [net.weight(1, size, size, scale=1.0), net.weight(1, size, size, scale=0.2)]
        value = net.op("Squeeze", net.op("RNN", value, *weights, hidden_size=size), net.constant([1]))
        value = net.op("Add", value, net.op("ReduceMax", value, net.constant([0]), keepdims=1))
    net.output(value)
    data = np.random.default_rng(0).standard_normal((6, steps, 1, size)).astype(np.float32)
    analysis = audit(net.model(), data={"x": data}, num_samples=6)
    few = audit(net.model(), data={"x": data[:1]}, num_samples=1)
    assert int(analysis.grid.num_gradient_paths) >= int(few.grid.num_gradient_paths) > 0
    assert analysis.growth.measured_log10 is not None
