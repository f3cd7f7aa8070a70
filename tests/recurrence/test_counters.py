"""A number that counts the steps is no layer, whatever its type; one that the data move is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from unrolled_models import Unroller, at, stacked

from lsc_graph.audit_model import audit, inspect
from lsc_graph.counting.connect import connected_cells
from lsc_graph.planning import Request
from lsc_graph.prepare import prepare
from lsc_graph.pretraining.pretrain_model import pretrain
from lsc_graph.unrolling.unroll_model import unroll_model

T, D, H = 12, 3, 4
STEP = """<ir_version: 8, opset_import: ["" : 17]>
step () => () {{
    p = MatMul(x_t, W)
    q = MatMul(h_old, U)
    s = Add(p, q)
    {use}
    h_new = Tanh(s2)
    y = Identity(h_new)
    {count}
}}"""
UNUSED, USED = "s2 = Identity(s)", "r = Mul(t_old, small)\ns2 = Add(s, r)"
COUNTS = "t_new = Add(t_old, one)"
OF_DATA = "m = ReduceMean<keepdims=0>(x_t)\nt_new = Add(t_old, m)"


def counting(use: str, count: str, clock: Sequence[int] = ()) -> onnx.ModelProto:
    """h' = tanh(x W + h U + 0.01 t), and t' = t + 1, as a Scan over two states; t has the shape `clock`."""
    info, kind = helper.make_tensor_value_info, TensorProto.FLOAT
    body = onnx.parser.parse_model(STEP.format(use=use, count=count)).graph
    body.input.extend([info("h_old", kind, [1, H]), info("t_old", kind, clock), info("x_t", kind, [1, D])])
    body.output.extend([info("h_new", kind, [1, H]), info("t_new", kind, clock), info("y", kind, [1, H])])
    generator = np.random.default_rng(0)
    tensors = {
        "W": generator.standard_normal((D, H)),
        "U": 0.5 * generator.standard_normal((H, H)),
        "zeros": np.zeros((1, H)),
        "zero": np.zeros(clock),
        "one": np.array(1.0),
        "small": np.array(0.01),
    }
    scan = helper.make_node(
        "Scan", ["zeros", "zero", "x"], ["last", "count", "out"], body=body, num_scan_inputs=1
    )
    graph = helper.make_graph(
        [scan],
        "counting",
        [info("x", kind, [T, 1, D])],
        [info("out", kind, [T, 1, H])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("use", "clock"), [(UNUSED, []), (USED, []), (USED, [1, H])])
def test_a_counter_is_carried_and_no_layer(use: str, clock: list[int]) -> None:
    found = audit(counting(use, COUNTS, clock), num_samples=1)
    assert [layer.state_size for layer in found.layers] == [H]
    assert found.grid.num_gradient_paths == "1"


def test_a_number_that_the_data_move_is_a_layer() -> None:
    assert sorted(la.state_size for la in inspect(counting(USED, OF_DATA)).layers) == [1, H]


def given_clock(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same with a clock that starts where an input says."""
    (scan,) = proto.graph.node
    scan.input[1] = "start"
    proto.graph.input.append(helper.make_tensor_value_info("start", TensorProto.FLOAT, [1, H]))
    return proto


def test_a_clock_that_starts_where_an_input_says_is_no_layer() -> None:
    found = audit(given_clock(counting(USED, COUNTS, [1, H])), num_samples=1)
    assert [layer.state_size for layer in found.layers] == [H]


@pytest.mark.parametrize("count", ["t_new = Add(t_old, W0)", "t_new = Mul(t_old, small)", OF_DATA])
def test_what_weights_the_data_or_a_factor_move_is_a_layer_wherever_it_starts(count: str) -> None:
    proto = given_clock(counting(USED, count, [1, H]))
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((1, H), np.float32), "W0"))
    assert [la.state_size for la in inspect(proto).layers] == [H, H]


def test_the_clock_of_a_streaming_model_is_no_layer() -> None:
    body = onnx.parser.parse_model(STEP.format(use=USED, count=COUNTS)).graph
    info, kind = helper.make_tensor_value_info, TensorProto.FLOAT
    body.input.extend([info("h_old", kind, [1, H]), info("t_old", kind, [1, H]), info("x_t", kind, [1, D])])
    body.output.extend([info("h_new", kind, [1, H]), info("t_new", kind, [1, H]), info("y", kind, [1, H])])
    body.initializer.extend(counting(USED, COUNTS).graph.initializer)
    proto = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found = inspect(proto, states=[("h_old", "h_new"), ("t_old", "t_new")])
    assert [la.state_size for la in found.layers] == [H]


def test_where_a_counter_ends_may_be_read() -> None:
    model = counting(USED, COUNTS, [1, H])
    model.graph.node.append(helper.make_node("Add", ["out", "count"], ["shifted"]))
    model.graph.output[0].name = "shifted"
    prepared = prepare(model, Request(None, {}, {}, (), {}))
    cells = connected_cells(prepared, terminals=True).cells
    edges = {(edge.source, edge.target, edge.lag) for edge in cells.depth_edges}
    assert ("layer_0", "output:shifted", 0) in edges


def phased(num_layers: int) -> onnx.ModelProto:
    """h' = h + sin(0.5 k W) tanh(x W' + h U), k' = k + 1, as steps written out from given first values."""
    net = Unroller()
    x = net.input("x", T, 1, H)
    rows = [at(net, x, time) for time in range(T)]
    for layer in range(num_layers):
        w, v, u = net.weight(H), net.weight(H, H), net.weight(H, H)
        h, clock = net.input(f"h{layer}", 1, H), net.input(f"k{layer}", 1, H)
        for time in range(T):
            clock = net.op("Add", clock, net.constant(np.float32(1)))
            new = net.op("Tanh", net.sum(net.op("MatMul", rows[time], v), net.op("MatMul", h, u)))
            h = net.sum(h, net.op("Mul", net.op("Sin", net.op("Mul", clock, w)), new))
            rows[time] = h
    net.output(stacked(net, rows))
    return net.model()


def test_clocks_that_stand_beside_the_layers_of_a_stack() -> None:
    found = audit(phased(2), num_samples=1)
    assert [layer.state_size for layer in found.layers] == [H, H]
    assert found.grid.num_gradient_paths == str(T)
    assert found.layers[0].depth_radius is None
    assert found.layers[1].depth_radius is not None


def test_layers_above_clocks_are_pre_trained() -> None:
    found = pretrain(phased(2), target_time=0.9, max_iterations=1).report
    assert {own.layer for own in found.radii} == {"layer_0", "layer_1"}


def test_every_node_of_steps_beside_clocks_is_unrolled() -> None:
    grid = unroll_model(phased(2), nodes=True)
    names = [data["name"] for _, data in grid.nodes(data=True)]
    assert names.count("Tanh") == 2 * T
    assert "Sin" not in names
