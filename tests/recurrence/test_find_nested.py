"""A recurrence inside the step of another is part of that step: exactly, and the report says so."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from unrolled_models import Unroller

from lsc_graph.audit_model import audit, inspect
from lsc_graph.errors import NoLayersError
from lsc_graph.results import Form

T, K, H = 5, 3, 4
WEIGHTS = {name: 0.4 * np.random.default_rng(seed).standard_normal((H, H)).astype(np.float32)
           for seed, name in enumerate("UVRW")}  # fmt: skip
SEQUENCE = np.random.default_rng(9).standard_normal((T, K, 1, H)).astype(np.float32)


def info(name: str, *shape: int, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def step(row: str, before: str, result: str, recurrent: str, fed: str) -> list[onnx.NodeProto]:
    """result = tanh(before @ recurrent + row @ fed)"""
    return [
        helper.make_node("MatMul", [before, recurrent], [f"{result}_1"]),
        helper.make_node("MatMul", [row, fed], [f"{result}_2"]),
        helper.make_node("Add", [f"{result}_1", f"{result}_2"], [f"{result}_3"]),
        helper.make_node("Tanh", [f"{result}_3"], [result]),
    ]


def scan(name: str, start: str, sequence: str, final: str, body: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("Scan", [start, sequence], [final], num_scan_inputs=1, body=body, name=name)


def inner_scan() -> onnx.NodeProto:
    body = helper.make_graph(
        step("row", "g", "g_new", "U", "V"),
        "inner",
        [info("g", 1, H), info("row", 1, H)],
        [info("g_new", 1, H)],
    )
    return scan("inner", "h", "x_t", "g_last", body)


def inner_loop() -> onnx.NodeProto:
    nodes = [
        helper.make_node("Gather", ["x_t", "k"], ["row"], axis=0),
        *step("row", "g", "g_new", "U", "V"),
        helper.make_node("Identity", ["go_on"], ["go_on_new"]),
    ]
    flag = info("go_on", kind=TensorProto.BOOL), info("go_on_new", kind=TensorProto.BOOL)
    body = helper.make_graph(
        nodes,
        "inner",
        [info("k", kind=TensorProto.INT64), flag[0], info("g", 1, H)],
        [flag[1], info("g_new", 1, H)],
    )
    return helper.make_node("Loop", ["count", "", "h"], ["g_last"], body=body, name="inner")


def nested(inner: onnx.NodeProto) -> onnx.ModelProto:
    """h[t] = tanh(g_K R + x[t,0] W) with K inner steps g = tanh(g U + x[t,k] V) that start from h[t-1]."""
    nodes = [
        inner,
        helper.make_node("Gather", ["x_t", "first"], ["x_first"], axis=0),
        *step("x_first", "g_last", "h_new", "R", "W"),
        helper.make_node("Identity", ["h_new"], ["y_t"]),
    ]
    body = helper.make_graph(
        nodes, "outer", [info("h", 1, H), info("x_t", K, 1, H)], [info("h_new", 1, H), info("y_t", 1, H)]
    )
    outer = helper.make_node("Scan", ["h0", "x"], ["h_last", "y"], num_scan_inputs=1, body=body, name="outer")
    constants = {**WEIGHTS, "h0": np.zeros((1, H), np.float32), "count": np.array(K), "first": np.array(0)}
    graph = helper.make_graph(
        [outer],
        "main",
        [info("x", T, K, 1, H)],
        [info("y", T, 1, H)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def outer_step(h: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    u, v, r, w = (torch.from_numpy(WEIGHTS[name]).double() for name in "UVRW")
    g = h
    for row in rows:
        g = torch.tanh(g @ u + row @ v)
    return torch.tanh(g @ r + rows[0] @ w)


@pytest.mark.parametrize("inner", [inner_scan, inner_loop])
def test_the_inner_steps_are_part_of_the_outer_one(inner: object) -> None:
    assert callable(inner)
    analysis = audit(nested(inner()), data={"x": SEQUENCE[None]}, num_samples=1, black_box="never")
    h, radii = torch.zeros(1, H, dtype=torch.float64), []
    for time, rows in enumerate(torch.from_numpy(SEQUENCE).double()):
        jacobian = torch.autograd.functional.jacobian(lambda s, rows=rows: outer_step(s, rows), h)
        radii += [torch.linalg.eigvals(jacobian.reshape(H, H)).abs().max()] if time else []
        h = outer_step(h, rows)
    (layer,) = analysis.layers
    assert layer.time_radius is not None
    assert layer.time_radius.mean == pytest.approx(float(torch.stack(radii).mean()), rel=1e-4)
    assert any(
        line.startswith("inner is no layer of its own: it runs inside every step of Scan outer")
        for line in analysis.warnings
    )


def test_substeps_over_the_same_weights_are_part_of_a_streaming_step() -> None:
    """Three Euler steps of an equation in every call: no recurrence over depth takes the state's place."""
    net = Unroller()
    x, h = net.input("x", 1, H), net.input("h_in", 1, H)
    u, w, size = net.weight(H, H), net.weight(H, H), net.constant(0.2)
    drive = net.op("MatMul", x, w)
    for _ in range(3):
        change = net.op("Tanh", net.op("Add", net.op("MatMul", h, u), drive))
        h = net.op("Add", h, net.op("Mul", size, change))
    net.nodes.append(helper.make_node("Identity", [h], ["h_out"]))
    net.output("h_out")
    facts = inspect(net.model())
    (own,) = facts.recurrences
    assert own.form is Form.STREAMING
    assert set(own.weights) == {u, w}


def test_a_search_that_runs_a_decoder_inside_itself_is_refused_by_name() -> None:
    embedding, head = (np.ones(shape, np.float32) for shape in ((10, 16), (16, 10)))
    decoder = helper.make_graph(
        [
            helper.make_node("Gather", ["embedding", "input_ids"], ["e"]),
            helper.make_node("MatMul", ["e", "head"], ["logits"]),
            helper.make_node("Identity", ["past_0"], ["present_0"]),
        ],
        "decoder",
        [
            *(
                helper.make_tensor_value_info(name, TensorProto.INT32, [1, "length"])
                for name in ("input_ids", "position_ids", "attention_mask")
            ),
            helper.make_tensor_value_info("past_0", TensorProto.FLOAT, [2, 1, 2, "past", 8]),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "length", 10]),
            helper.make_tensor_value_info("present_0", TensorProto.FLOAT, [2, 1, 2, "all", 8]),
        ],
        [numpy_helper.from_array(embedding, "embedding"), numpy_helper.from_array(head, "head")],
    )
    search = helper.make_node(
        "GreedySearch",
        ["ids", "longest"],
        ["tokens"],
        name="search",
        domain="com.microsoft",
        decoder=decoder,
        eos_token_id=9,
        pad_token_id=0,
        model_type=0,
    )
    graph = helper.make_graph(
        [search],
        "m",
        [helper.make_tensor_value_info("ids", TensorProto.INT32, [1, 4])],
        [helper.make_tensor_value_info("tokens", TensorProto.INT32, [1, "n"])],
        [numpy_helper.from_array(np.array([8], np.int32), "longest")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    with pytest.raises(NoLayersError, match="GreedySearch runs its decoder once for each token"):
        audit(model, num_samples=1)
