"""Operator sets that ONNX Runtime does not take yet are read in one that it takes, or refused by name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lsc_graph.audit_model import audit
from lsc_graph.canonical.newer_opset import in_runnable_opset
from lsc_graph.errors import UnsupportedOpsetError
from lsc_graph.model_file.load import newest_run
from lsc_graph.pretraining.pretrain_model import pretrain
from lsc_graph.rerolling import reroll

NEWEST = onnx.defs.onnx_opset_version()
needs_newer = pytest.mark.skipif(
    newest_run(NEWEST) >= 27 or NEWEST < 27,
    reason="needs operators that onnx knows and ONNX Runtime does not",
)
T, HEADS, SIZE = 6, 2, 3
D = HEADS * SIZE


def model(nodes: list[onnx.NodeProto], opset: int, **constants: np.ndarray) -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "main",
        [info("x", onnx.TensorProto.FLOAT, [1, T, D])],
        [info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v, np.float32), name) for name, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def linear_attention() -> onnx.ModelProto:
    """S[t] = exp(decay) S[t-1] + k[t] v[t]^T with one decay for each row of the state."""
    weights = {n: 0.4 * np.random.default_rng(i).standard_normal((D, D)) for i, n in enumerate("qkv")}
    nodes = [helper.make_node("MatMul", ["x", name], [f"{name}_x"]) for name in "qkv"]
    nodes += [
        helper.make_node("Mul", ["x", "zero"], ["zeros"]),
        helper.make_node("Add", ["zeros", "rates"], ["decay"]),
        helper.make_node(
            "LinearAttention",
            ["q_x", "k_x", "v_x", "", "decay"],
            ["y", "last"],
            q_num_heads=HEADS,
            kv_num_heads=HEADS,
            update_rule="gated",
            name="attention",
        ),
    ]
    return model(nodes, 27, zero=np.zeros(1), rates=np.log(np.linspace(0.3, 0.8, D)), **weights)


@needs_newer
def test_linear_attention_is_the_recurrence_that_defines_it() -> None:
    analysis = audit(linear_attention(), num_samples=1)
    (layer,) = analysis.layers
    assert layer.name.startswith("attention")
    assert layer.state_size == HEADS * SIZE * SIZE
    assert layer.time_radius is not None
    assert layer.time_radius.mean == pytest.approx(0.8, abs=1e-5)
    assert any("LinearAttention written out" in warning for warning in analysis.warnings)


@needs_newer
def test_a_causal_convolution_with_state_is_causal_and_has_the_pieces_of_its_kernel() -> None:
    kernel = np.random.default_rng(0).standard_normal((T, 1, 3)).astype(np.float32)
    nodes = [
        helper.make_node("CausalConvWithState", ["x", "w"], ["c", "state"]),
        helper.make_node("Identity", ["c"], ["y"]),
    ]
    proto = model(nodes, 27, w=kernel)
    (own,) = audit(proto, num_samples=1).time_parallel
    assert (own.source, own.time_axis, own.reach) == ("input x", 2, 2)
    assert own.equal_radius is not None
    assert own.neighbour_radius is not None
    assert own.equal_radius.mean == pytest.approx(float(np.abs(kernel[:, 0, 2]).max()), rel=1e-5)
    assert own.neighbour_radius.mean == pytest.approx(float(np.abs(kernel[:, 0, 1]).max()), rel=1e-5)


@needs_newer
def test_what_is_written_in_the_newer_set_is_not_touched() -> None:
    for act in (pretrain, reroll):
        with pytest.raises(UnsupportedOpsetError, match="not supported"):
            act(linear_attention())


@needs_newer
def test_unchanged_operators_are_taken_over() -> None:
    proto = model([helper.make_node("Tanh", ["x"], ["y"])], NEWEST)
    older, words = in_runnable_opset(proto)
    assert older.opset_import[0].version == newest_run(NEWEST)
    assert [node.op_type for node in older.graph.node] == ["Tanh"]
    assert len(words) == 1


def test_a_model_that_runs_is_left_alone() -> None:
    proto = model([helper.make_node("Tanh", ["x"], ["y"])], 17)
    assert in_runnable_opset(proto) == (proto, ())
