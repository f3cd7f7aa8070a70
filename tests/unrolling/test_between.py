"""Nodes of the main graph, at the times that their elements have."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lsc_graph.counting.model_cells import model_cells
from lsc_graph.errors import LimitExceededError, UsageError
from lsc_graph.grid.paths import num_gradient_paths
from lsc_graph.unrolling import between as module
from lsc_graph.unrolling.unroll_nodes import unroll_nodes

T, D = 6, 3
HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
LOOP = f"""
    last, y = Scan <num_scan_inputs = 1, body = step (float[1, {D}] h, float[1, {D}] x_t)
        => (float[1, {D}] n, float[1, {D}] o) {{ s = Add(h, x_t) n = Tanh(s) o = Identity(n) }}> (h0, READ)"""
BEFORE = {
    "as it is": ("", "x", T * (T + 1) // 2),
    "two ways at each step": ("a = Tanh(x) b = Sigmoid(x) u = Add(a, b)", "u", T * (T + 1)),
    "a step later": (
        "front = Slice(x, zero, minus_one) u = Concat<axis = 0>(nothing, front)",
        "u",
        T * (T - 1) // 2,
    ),
    "now and a step before": (
        "front = Slice(x, zero, minus_one) back = Concat<axis = 0>(nothing, front) u = Add(x, back)",
        "u",
        T * (T + 1) // 2 + T * (T - 1) // 2,
    ),
    "a mean over all steps": (
        "u = ReduceMean<axes = [0]>(x) v = Add(x, u)",
        "v",
        (T + 1) * T * (T + 1) // 2,
    ),
    "a window, padded": (
        "a = Transpose<perm = [1, 2, 0]>(x) c = Conv<pads = [1, 1]>(a, w) r = Relu(c)"
        "u = Transpose<perm = [2, 0, 1]>(r)",
        "u",
        sum((T - t) * (3 - (t in (0, T - 1))) for t in range(T)),
    ),
}


def model(before: str, read: str, head: str = "") -> onnx.ModelProto:
    text = f"""{HEAD} m (float[{T}, 1, {D}] x) => (float[{T}, 1, {D}] y) {{
        {before} {LOOP.replace("READ", read)} {head}
    }}"""
    proto = onnx.parser.parse_model(text)
    w = np.random.default_rng(0).standard_normal((D, D, 3))
    arrays = {
        "h0": np.zeros((1, D), np.float32),
        "nothing": np.zeros((1, 1, D), np.float32),
        "zero": np.array([0]),
        "minus_one": np.array([-1]),
        "w": w.astype(np.float32),
    }
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return proto


def ways(proto: onnx.ModelProto, num_steps: int | None = None) -> int:
    prepared, cells, _ = model_cells(proto, num_steps=num_steps)
    grid = unroll_nodes(prepared, cells)
    ends = ([node for node in grid if node.layer == layer] for layer in ("input:x", "output:y"))
    return num_gradient_paths(grid, *ends)


@pytest.mark.parametrize("name", BEFORE)
def test_what_lies_before_a_recurrence_is_there_at_every_time(name: str) -> None:
    before, read, expected = BEFORE[name]
    assert ways(model(before, read)) == expected


def test_nodes_are_carried_over_to_another_number_of_steps_where_they_follow_a_rule() -> None:
    before, read, _ = BEFORE["two ways at each step"]
    assert ways(model(before, read), 9) == 9 * 10
    before, read, _ = BEFORE["now and a step before"]
    assert ways(model(before, read), 9) == 9 * 10 // 2 + 9 * 8 // 2


def test_what_follows_no_rule_is_refused_at_another_number_of_steps() -> None:
    before = "front = Slice(x, zero, two) back = Slice(x, two, six) u = Concat<axis = 0>(back, front)"
    proto = model(before, "u")
    arrays = {"two": np.array([2]), "six": np.array([T])}
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    assert ways(proto) == T * (T + 1) // 2
    with pytest.raises(UsageError, match="number of steps"):
        ways(proto, 9)


def test_too_many_nodes_outside_the_steps_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, read, _ = BEFORE["two ways at each step"]
    monkeypatch.setattr(module, "MAX_GRID_NODES", 6 * T)
    assert ways(model(before, read)) == T * (T + 1)
    with pytest.raises(LimitExceededError, match="nodes outside the steps"):
        ways(model(before, read), 3 * T)
