"""Loops that run over something else than layers stay what they are, and so do loops that are too long."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from layered_models import (
    H,
    T,
    cell,
    graph,
    info,
    loop,
    loop_body,
    model,
    node,
    numbers,
    scan,
    scans_inside,
    time_scan,
    weights,
)

from lsc_graph.audit_model import audit, inspect
from lsc_graph.results import Axis, Form, Inspection

OWN = {name: array[0] for name, array in weights(1).items()}
EMBEDDING = 0.3 * np.random.default_rng(1).standard_normal((T, 1, H)).astype(np.float32)
CONSTANTS = OWN | numbers(1) | {"E": EMBEDDING}


def recurrent(*more: str) -> onnx.GraphProto:
    """h' = tanh(v W + h U + b), where v is the sum of the slices x, or e, or both."""
    fed = [node("Add", "x e", "v")] if len(more) > 1 else [node("Identity", more[0], "v")]
    nodes = [*fed, *cell(x="v", w="W", u="U", b="b"), node("Identity", "h_new", "y")]
    inputs = [info("h", 1, H), *(info(name, 1, H) for name in more)]
    return graph(nodes, inputs, [info("h_new", 1, H), info("y", 1, H)])


def found(proto: onnx.ModelProto) -> Inspection:
    own = inspect(proto)
    assert not any("runs over layers" in line for line in own.warnings)
    return own


def test_a_vector_for_every_step_makes_no_layers() -> None:
    step = scan("time", "zero xs E", "last ys", recurrent("x", "e"), 2)
    (own,) = found(model([step], CONSTANTS)).recurrences
    assert (own.form, own.over, own.num_steps) == (Form.SCAN, Axis.TIME, T)


def test_a_generator_that_reads_nothing_but_vectors_of_its_own_steps_is_over_time() -> None:
    nodes = [
        node("ReduceSum", "xs first", "x0", keepdims=0),
        scan("time", "x0 E", "last ys", recurrent("e"), 1),
    ]
    (own,) = found(model(nodes, CONSTANTS)).recurrences
    assert (own.over, own.num_steps) == (Axis.TIME, T)


def test_a_looped_block_with_a_vector_for_each_iteration_is_a_recurrence_over_depth() -> None:
    body = graph(cell(x="e", w="W", u="U", b="b"), [info("h", 1, H), info("e", 1, H)], [info("h_new", 1, H)])
    nodes = [node("ReduceSum", "xs first", "x0", keepdims=0), scan("block", "x0 E", "last", body, 1)]
    (own,) = found(model(nodes, CONSTANTS, [info("last", 1, H)])).recurrences
    assert (own.over, own.num_steps) == (Axis.DEPTH, T)


def test_a_tied_block_iterated_inside_the_step_is_part_of_the_step() -> None:
    body = loop_body("k", cell(x="x_t", w="W", u="U", b="b"), [info("h", 1, H)], [info("h_new", 1, H)])
    inner = [loop("block", "count", "hs", "hs_new", body), node("Identity", "hs_new", "y")]
    step = time_scan(inner, (1, H), starts="zero")
    own = found(model([step], CONSTANTS | {"count": np.array(4)}))
    assert [layer.state_size for layer in own.layers] == [H]
    assert any("block is no layer of its own" in line for line in own.warnings)


def test_a_loop_of_too_many_iterations_is_one_layer_and_said_to_be() -> None:
    own = found(scans_inside(300))
    assert [layer.state_size for layer in own.layers] == [300 * H]
    assert any("layers is no layer of its own" in line for line in own.warnings)


def test_a_loop_whose_length_the_data_decide_is_one_layer_and_said_to_be() -> None:
    """The number of layers that are applied is the number of positive entries."""
    num_layers = 3
    rows = [node("Gather", f"{name} k", new, axis=0) for name, new in (("W", "w"), ("U", "u"), ("b", "c"))]
    body = loop_body("k", [*rows, *cell()], [info("h", 1, H)], [info("h_new", 1, H)])
    body.node.insert(0, node("Identity", "x_t", "x"))
    before = [
        node("Greater", "x_t low", "is"),
        node("Cast", "is", "ones", to=7),
        node("ReduceSum", "ones both", "num", keepdims=0),
        node("Min", "num most", "count_t"),
    ]
    inner = [*before, loop("layers", "count_t", "hs", "hs_new", body), node("Identity", "hs_new", "y")]
    step = time_scan(inner, (1, H), starts="zero")
    constants = weights(num_layers) | numbers(1) | {"low": np.float32(0), "most": np.array(num_layers)}
    own = found(model([step], constants))
    assert [layer.state_size for layer in own.layers] == [H]
    assert any("layers is no layer of its own" in line for line in own.warnings)


@pytest.mark.parametrize("num_layers", [1, 4])
def test_feed_forward_layers_are_a_chain(num_layers: int) -> None:
    body = graph(
        [node("MatMul", "v w", "m"), node("Add", "m c", "a"), node("Tanh", "a", "v_new")],
        [info("v", 1, H), info("w", H, H), info("c", 1, H)],
        [info("v_new", 1, H)],
    )
    nodes = [node("ReduceSum", "xs first", "x0", keepdims=0), scan("layers", "x0 W b", "out", body, 2)]
    proto = model(nodes, weights(num_layers) | numbers(1), [info("out", 1, H)])
    analysis = audit(proto, num_samples=1)
    assert analysis.recurrences == ()
    assert len(analysis.layers) == num_layers
