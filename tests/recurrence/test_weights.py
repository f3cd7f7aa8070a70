"""An initializer is listed with the recurrence whose next state it enters first, wherever it is used."""

from __future__ import annotations

import numpy as np
import onnx
from layered_models import H, T, cell, graph, info, model, node, over_time, scan, weights
from unrolled_models import Unroller

from lsc_graph.audit_model import inspect

DRAWN = {name: array[0] for name, array in weights(1).items()} | {"zero": np.zeros((1, H), np.float32)}
OTHERS = {name: weights(2)["W"][0] + 1 for name in ("V", "R", "P")}


def trained(proto: onnx.ModelProto) -> list[set[str]]:
    return [set(own.weights) for own in inspect(proto).recurrences]


def upper(sequence: str) -> onnx.NodeProto:
    """g = tanh(p + g R), over a sequence of p."""
    nodes = [node("MatMul", "g R", "m"), node("Add", "m p", "a"), node("Tanh", "a", "g_new")]
    body = graph(
        [*nodes, node("Identity", "g_new", "z")],
        [info("g", 1, H), info("p", 1, H)],
        [info("g_new", 1, H), info("z", 1, H)],
    )
    return scan("upper", f"zero {sequence}", "g_last ys", body, 1)


def test_a_projection_in_the_step_of_the_layer_below() -> None:
    nodes = [*cell(w="W", u="U", b="b"), node("Identity", "h_new", "h_out"), node("MatMul", "h_new V", "p")]
    body = graph(nodes, [info("h", 1, H), info("x", 1, H)], [info("h_out", 1, H), info("p", 1, H)])
    lower = scan("lower", "zero xs", "h_last ps", body, 1)
    proto = model([lower, upper("ps")], DRAWN | OTHERS)
    assert trained(proto) == [{"W", "U", "b"}, {"V", "R"}]


def test_a_projection_between_two_loops() -> None:
    nodes = [over_time("lower", "xs", "hs", "W", "U", "b"), node("MatMul", "hs V", "ps"), upper("ps")]
    assert trained(model(nodes, DRAWN | OTHERS)) == [{"W", "U", "b"}, {"V", "R"}]


def test_what_is_only_put_out_is_trained_by_no_recurrence() -> None:
    nodes = [node("MatMul", "xs V", "ps"), upper("ps"), node("MatMul", "ys P", "out")]
    assert trained(model(nodes, DRAWN | OTHERS, [info("out", T, 1, H)])) == [{"V", "R"}]


def test_layers_without_a_weight_on_their_state_that_are_written_out_step_by_step() -> None:
    """The steps of all layers stand in one row, so that each gate lies in the steps of the layer below."""
    net = Unroller()
    x = net.input("x", T, 1, H)
    gates = [net.weight(H, H) for _ in range(4)]
    one = net.constant(1.0)
    states = [net.constant(np.zeros((1, H), np.float32))] * 2
    for time in range(T):
        value = net.op("Gather", x, net.constant(np.array(time)), axis=0)
        for layer in range(2):
            gate = net.op("Sigmoid", net.op("MatMul", value, gates[2 * layer]))
            new = net.op("Mul", gate, net.op("MatMul", value, gates[2 * layer + 1]))
            states[layer] = net.op("Add", net.op("Mul", net.op("Sub", one, gate), states[layer]), new)
            value = states[layer]
    net.output(value)
    assert trained(net.model()) == [set(gates[:2]), set(gates[2:])]
