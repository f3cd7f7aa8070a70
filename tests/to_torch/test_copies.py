"""Pieces are run for many points at once where that gives what single runs do, and only there."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lsc_graph.running.reference import Array
from lsc_graph.to_torch import copies
from lsc_graph.to_torch.black_box import BlackBox
from lsc_graph.to_torch.copies import Runs
from lsc_graph.to_torch.differences import Differences

N = 32
INTEGERS = {"half": [1, 2, N // 2], "rows": [-1, N], "ones": [1, N], "zero": [0], "eight": [8]}
TOGETHER = {
    "a product": "y = MatMul(x, w)",
    "a norm of each entry": "m = ReduceMean<axes = [1]>(x) c = Sub(x, m) y = Tanh(c)",
    "a shape with the batch": "r = Reshape(x, half) t = Transpose<perm = [0, 2, 1]>(r) y = Reshape(t, ones)",
    "a batch that has another place inside": "t = Transpose(x) s = MatMul(w, t) y = Transpose(s)",
    "entries that meet along one axis alone": "m = ReduceMean<axes = [0]>(x) y = Tanh(m)",
    "another input": "p = MatMul(x, w) q = Concat<axis = 0>(p, p) y = Mul(p, z)",
}
ALONE = {
    "a norm over the batch": "p = MatMul(x, w) m = ReduceMean<axes = [0]>(p) c = Sub(p, m) y = Add(c, x)",
    "a softmax over the batch": "p = MatMul(x, w) s = Softmax<axis = 0>(p) y = Mul(s, x)",
    "a range of the batch": "q, s, p = DynamicQuantizeLinear(x) y = DequantizeLinear(q, s, p)",
    "one entry of the batch": "g = Gather<axis = 0>(x, zero) y = MatMul(g, w)",
}
FOR_LARGE_BATCHES = """
    shape = Shape(x) count = Gather(shape, zero) is_large = Greater(count, eight)
    m = ReduceMean<axes = [0]>(x) c = Sub(x, m) mixed = Tanh(c) own = Tanh(x) y = Where(is_large, mixed, own)
"""


def piece(body: str, shape: tuple[int, ...] = (1, N)) -> onnx.ModelProto:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float{list(shape)} x, float{list(shape)} z) => (float{list(shape)} y) {{ {body} }}"""
    proto = onnx.parser.parse_model(text)
    weights = np.random.default_rng(0).standard_normal((N, N)) / N**0.5
    stored = {"w": weights.astype(np.float32)} | {
        name: np.array(values, np.int64) for name, values in INTEGERS.items()
    }
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in stored.items())
    return proto


def point(seed: int, shape: tuple[int, ...] = (1, N)) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def taken(proto: onnx.ModelProto, values: list[Array]) -> tuple[Array, Differences]:
    box = BlackBox(proto, Differences())
    return box.jacobian(values[: len(box.names)], [0])[0], box.record


def taken_alone(proto: onnx.ModelProto, values: list[Array]) -> tuple[Array, Differences]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runs, "num_at_once", lambda self, values, index: 1)
        return taken(proto, values)


@pytest.mark.parametrize("body", TOGETHER.values(), ids=TOGETHER)
def test_what_keeps_entries_apart_takes_few_runs(body: str) -> None:
    values = [point(0), point(1)]
    (found, record), (expected, single) = taken(piece(body), values), taken_alone(piece(body), values)
    assert record.num_runs < 20 < 4 * N <= single.num_runs
    bars = (record.errors[0] + single.errors[0]) * np.linalg.norm(expected)
    assert np.linalg.norm(found - expected) <= bars
    np.testing.assert_array_equal(found == 0, expected == 0)


@pytest.mark.parametrize("body", ALONE.values(), ids=ALONE)
def test_what_mixes_entries_is_run_for_one_point_at_a_time(body: str) -> None:
    values = [point(0), point(1)]
    (found, record), (expected, single) = taken(piece(body), values), taken_alone(piece(body), values)
    assert record.num_runs >= single.num_runs > 4 * N
    np.testing.assert_array_equal(found, expected)


def test_what_mixes_the_entries_of_large_batches_alone_is_found_out() -> None:
    values = [point(0), point(1)]
    found, record = taken(piece(FOR_LARGE_BATCHES), values)
    np.testing.assert_allclose(np.diagonal(found), 1 - np.tanh(values[0][0]) ** 2, rtol=1e-5)
    assert record.num_runs > 4 * N


GATED = """
    p = MatMul(x, w) y = Tanh(p)
    m = ReduceMean<axes = [0], keepdims = 1>(x) n = MatMul(m, w) c = Sub(n, large) g = Relu(c)
"""


@pytest.mark.parametrize("output", ["y", "g"])
def test_what_does_not_move_at_first_is_not_taken_for_what_never_moves(output: str) -> None:
    """Of a mean over the batch, behind a threshold that it does not pass at the first point."""
    proto = piece(GATED)
    proto.graph.initializer.append(numpy_helper.from_array(np.array(30, np.float32), "large"))
    kept = [own for own in ("y", "g") if own == "g" or output == "y"]
    del proto.graph.output[:]
    shaped = helper.make_tensor_value_info
    proto.graph.output.extend(shaped(name, TensorProto.FLOAT, [1, N]) for name in kept)
    box = BlackBox(proto, Differences())
    box.jacobian([point(0)], [0])
    found = box.jacobian([100 * point(0)], [0])[0]
    (weights,) = (numpy_helper.to_array(own) for own in proto.graph.initializer if own.name == "w")
    is_open = 100 * point(0)[0] @ weights > 30
    assert 0 < is_open.sum() < N
    np.testing.assert_allclose(found[-N:], np.where(is_open[:, None], weights.T, 0), atol=1e-6)


def test_where_nothing_moves_at_first_many_points_run_at_once_later() -> None:
    proto = piece("p = MatMul(x, w) y = Relu(p)")
    (weights,) = (numpy_helper.to_array(own) for own in proto.graph.initializer if own.name == "w")
    proto.graph.node[1].op_type = "ThresholdedRelu"
    proto.graph.node[1].attribute.append(helper.make_attribute("alpha", 30.0))
    box = BlackBox(proto, Differences())
    assert not box.jacobian([point(0)], [0])[0].any()
    count = box.record.num_runs
    found = box.jacobian([100 * point(0)], [0])[0]
    assert box.record.num_runs < count + 25
    np.testing.assert_allclose(found, np.where(100 * point(0) @ weights > 30, weights, 0).T, atol=1e-6)


def test_a_batch_of_several_is_copied_whole() -> None:
    """A mean over three entries: copies of the three along the other axis keep it apart."""
    body = "m = ReduceMean<axes = [0]>(x) c = Sub(x, m) y = Tanh(c)"
    values = [point(0, (3, N)), point(1, (3, N))]
    found, record = taken(piece(body, (3, N)), values)
    expected, _ = taken_alone(piece(body, (3, N)), values)
    assert np.linalg.norm(found - expected) <= 2 * record.errors[0] * np.linalg.norm(expected)


def fused(op_type: str, gates: int) -> onnx.ModelProto:
    """A fused operator: the batch is axis 1 of its sequence and of its first state."""
    shaped = helper.make_tensor_value_info
    random = np.random.default_rng(0).standard_normal
    weights = {name: (random((1, gates * N, N)) / N**0.5).astype(np.float32) for name in "WR"}
    node = helper.make_node(op_type, ["x", "W", "R", "", "", "h"], ["y", "h_new"], hidden_size=N)
    graph = helper.make_graph(
        [node],
        "fused",
        [shaped("h", TensorProto.FLOAT, [1, 1, N]), shaped("x", TensorProto.FLOAT, [1, 1, N])],
        [shaped("h_new", TensorProto.FLOAT, [1, 1, N])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_what_needs_as_many_entries_in_all_inputs_gets_them() -> None:
    values = [point(0, (1, 1, N)), point(1, (1, 1, N))]
    proto = fused("GRU", 3)
    (found, record), (expected, _) = taken(proto, values), taken_alone(proto, values)
    assert record.num_runs < 25
    assert np.linalg.norm(found - expected) <= 3 * record.errors[0] * np.linalg.norm(expected)


def test_no_more_points_run_at_once_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [point(0), point(1)]
    whole, record = taken(piece("y = MatMul(x, w)"), values)
    # One input, one output of doubles: memory for eight points.
    monkeypatch.setattr(copies, "_MAX_BYTES", 8 * 2 * N * 8)
    parts, sparing = taken(piece("y = MatMul(x, w)"), values)
    assert sparing.num_runs >= 4 * N // 8 > record.num_runs
    np.testing.assert_allclose(parts, whole, rtol=1e-9, atol=1e-9)


def test_memory_for_less_than_the_shifts_of_one_element_means_single_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(copies, "_MAX_BYTES", 1)
    _, record = taken(piece("y = MatMul(x, w)"), [point(0), point(1)])
    assert record.num_runs > 4 * N
