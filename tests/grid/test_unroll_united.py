"""Samples may connect times differently: the united cell graph has every connection that any showed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from unrolled_models import Unroller

from lsc_graph.audit_model import audit
from lsc_graph.grid.unroll import united
from lsc_graph.layers.cells import CellGraph, DepthEdge, Layer

STEPS, SIZE = 6, 2
LAYERS = tuple(Layer(name, name, None, (), 2, 1) for name in "ab")


def graph(*edges: DepthEdge) -> CellGraph:
    return CellGraph(LAYERS, edges, 3)


def test_edges_that_are_known_change_nothing() -> None:
    one = graph(DepthEdge("a", "b"), DepthEdge("a", "b", 1))
    assert united(one, graph(DepthEdge("a", "b", 1))) is one


def test_what_differs_is_listed_pair_by_pair() -> None:
    (edge,) = united(graph(DepthEdge("a", "b")), graph(DepthEdge("a", "b", time_pairs=((0, 2),)))).depth_edges
    assert edge.time_pairs == ((0, 0), (1, 1), (0, 2), (2, 2))


def recurrences_joined_by(one_of: Callable[[Unroller, str], str], *inputs: str) -> onnx.ModelProto:
    """Two recurrences; what is made of each one's whole sequence is every step's input of the next."""
    net = Unroller()
    value = net.input("x", STEPS, 1, SIZE)
    for name in inputs:
        net.input(name, 2, dtype=onnx.TensorProto.INT64)
    for _ in range(2):
        weights = [net.constant(np.eye(SIZE)[None]), net.constant(0.1 * np.eye(SIZE)[None])]
        value = net.op("Squeeze", net.op("RNN", value, *weights, hidden_size=SIZE), net.constant([1]))
        value = net.op("Expand", one_of(net, value), net.constant([STEPS, 1, SIZE]))
    net.output(value)
    return net.model()


def test_a_maximum_over_time_connects_every_time_that_could_be_the_largest() -> None:
    model = recurrences_joined_by(lambda net, value: net.op("ReduceMax", value, net.constant([0])))
    data = np.zeros((2, STEPS, 1, SIZE), np.float32)
    data[0, 0] = data[1, -1] = 1
    analysis = audit(model, data={"x": data}, num_samples=2)
    assert int(analysis.grid.num_gradient_paths) == STEPS**2


def test_a_step_that_the_data_choose_connects_other_times_in_each_sample() -> None:
    """The first one in one sample, the last one in the other."""
    model = recurrences_joined_by(
        lambda net, value: net.op("ReduceMean", net.op("Gather", value, "chosen"), net.constant([0])),
        "chosen",
    )
    data = np.random.default_rng(0).standard_normal((2, STEPS, 1, SIZE)).astype(np.float32)
    numbers = np.array([[0, 0], [STEPS - 1, STEPS - 1]])
    for samples, pairs in (([0], 6), ([1], 6), ([0, 1], 12)):
        given = {"x": data[samples], "chosen": numbers[samples]}
        analysis = audit(model, data=given, num_samples=len(samples))
        assert int(analysis.grid.num_gradient_paths) == pairs, samples
        assert analysis.growth.measured_log10 is not None
