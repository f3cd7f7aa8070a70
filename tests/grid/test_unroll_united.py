"""Samples may connect times differently: the united cell graph has every connection that any showed."""

from __future__ import annotations

import numpy as np
from unrolled_models import Unroller

from lsc_graph.audit_model import audit
from lsc_graph.grid.unroll import united
from lsc_graph.layers.cells import CellGraph, DepthEdge, Layer

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
    """It passes the gradient of one step on: of the first in one sample, of the last in the other."""
    net = Unroller()
    steps, size = 6, 2
    value = net.input("x", steps, 1, size)
    for _ in range(2):
        weights = [net.constant(np.eye(size)[None]), net.constant(0.1 * np.eye(size)[None])]
        value = net.op("Squeeze", net.op("RNN", value, *weights, hidden_size=size), net.constant([1]))
        value = net.op(
            "Expand", net.op("ReduceMax", value, net.constant([0])), net.constant([steps, 1, size])
        )
    net.output(value)
    data = np.zeros((2, steps, 1, size), np.float32)
    data[0, 0] = data[1, -1] = 1
    for chosen, pairs in (([0], 6), ([1], 6), ([0, 1], 12)):
        analysis = audit(net.model(), data={"x": data[chosen]}, num_samples=len(chosen))
        assert int(analysis.grid.num_gradient_paths) == pairs, chosen
        assert analysis.growth.measured_log10 is not None
