"""Recurrences run in torch step by step; a state whose shape changes on the way is named."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from lsc_graph.models import registry
from onnx import TensorProto, helper
from single_runs import single_run

from lsc_graph.audit_model import audit
from lsc_graph.errors import AnalysisError

HEADS, LENGTH, WIDTH = 2, 8, 16
CACHE = [1, HEADS, LENGTH, WIDTH // HEADS]


def with_a_cache() -> onnx.ModelProto:
    """Attention whose cache is declared to keep its length, but grows where its memory is not shared."""
    rng = np.random.default_rng(0)
    keys, values = ("past_key", "past_value"), ("present_key", "present_value")
    nodes = [helper.make_node("MatMul", ["x", f"w{name}"], [name]) for name in "qkv"]
    attention = helper.make_node(
        "GroupQueryAttention",
        [*"qkv", *keys, "lengths", "total"],
        ["y", *values],
        domain="com.microsoft",
        num_heads=HEADS,
        kv_num_heads=HEADS,
    )
    graph = helper.make_graph(
        [*nodes, attention],
        "cache",
        [
            *(value(name, [1, 1, WIDTH]) for name in "x"),
            *(value(name, CACHE) for name in keys),
            helper.make_tensor_value_info("lengths", TensorProto.INT32, [1]),
            helper.make_tensor_value_info("total", TensorProto.INT32, []),
        ],
        [value("y", [1, 1, WIDTH]), *(value(name, CACHE) for name in values)],
        [
            onnx.numpy_helper.from_array(rng.standard_normal((WIDTH, WIDTH)).astype(np.float32), f"w{name}")
            for name in "qkv"
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def value(name: str, shape: list[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def test_a_cache_that_grows_although_the_file_says_otherwise_is_refused_by_name() -> None:
    with pytest.raises(AnalysisError, match=r"as a cache that grows does: past_key"):
        audit(with_a_cache(), num_steps=3, num_samples=1)


def test_states_before_and_after_a_step_share_one_memory_in_both_directions() -> None:
    """What a step reads is what the one before it wrote, and is kept once."""
    _, view, sample = single_run(registry.build("bidirectional_lstm"), 5)
    with torch.no_grad():
        trajectories = view.run(sample).trajectories
    assert [site.is_reverse for site in view.program.sites] == [False, True] * (len(trajectories) // 2)
    for site, trajectory in zip(view.program.sites, trajectories, strict=True):
        for name, before in trajectory.before.items():
            after = trajectory.after[name]
            assert before.untyped_storage().data_ptr() == after.untyped_storage().data_ptr()
            earlier, later = (after[1:], before[:-1]) if site.is_reverse else (after[:-1], before[1:])
            assert torch.equal(earlier, later)
            assert not torch.equal(before, after)
