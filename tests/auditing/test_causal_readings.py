"""inspect says along which axes blocks without a cell are causal, and how to choose between several."""

from __future__ import annotations

import io

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from rich.console import Console

from lsc_graph.audit_model import inspect
from lsc_graph.report.terminal import render_inspection

T = 6


def mixed(both: bool) -> onnx.ModelProto:
    """y = L x, or L x L^T, with L lower triangular: causal along the first axis, or along both."""
    info = helper.make_tensor_value_info
    lower = np.tril(np.random.default_rng(0).standard_normal((T, T))).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["L", "x"], ["a"])]
    nodes.append(
        helper.make_node("MatMul", ["a", "U"], ["b"]) if both else helper.make_node("Tanh", ["a"], ["b"])
    )
    nodes.append(helper.make_node("Tanh", ["b"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "mixed",
        [info("x", 1, [T, T])],
        [info("y", 1, [T, T])],
        [numpy_helper.from_array(lower, "L"), numpy_helper.from_array(lower.T.copy(), "U")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def text_of(both: bool, time_axis: int | None) -> str:
    buffer = io.StringIO()
    render_inspection(inspect(mixed(both), time_axis=time_axis), Console(file=buffer, width=100))
    return buffer.getvalue()


def test_one_axis_is_named() -> None:
    (found,) = inspect(mixed(False)).causal
    assert (found.source, found.time_axes, found.num_steps) == ("input x", (0,), (T,))


@pytest.mark.parametrize(("time_axis", "expected"), [(None, (0, 1)), (0, (0,)), (-1, (1,))])
def test_of_several_axes_one_can_be_chosen(time_axis: int | None, expected: tuple[int, ...]) -> None:
    blocks = inspect(mixed(True), time_axis=time_axis).causal
    axes = {axis for block in blocks for axis in block.time_axes}
    assert axes == set(expected)
    assert ("choose time with --time-axis" in text_of(True, time_axis)) == any(
        len(b.time_axes) > 1 for b in blocks
    )


def test_an_axis_that_is_none_is_said_to_be_none() -> None:
    found = inspect(mixed(False), time_axis=1)
    assert found.causal == ()
    assert any("no layer without a cell is causal along that axis" in words for words in found.warnings)
