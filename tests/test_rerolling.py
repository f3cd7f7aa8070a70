"""Rerolled models compute the same, keep their face, and are never written unless that is shown."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from lsc_graph.models.gru import gru
from unrolled_models import Unroller, at, layer, stacked, tanh_cell

from lsc_graph import rerolling
from lsc_graph.audit_model import audit, inspect
from lsc_graph.canonical.normalize import normalize
from lsc_graph.errors import AnalysisError, ParityError, UsageError
from lsc_graph.recurrence.unrolled.roll import roll_steps
from lsc_graph.rerolling import reroll
from lsc_graph.results import Direction, Form
from lsc_graph.running.reference import Array, Reference

T, D, H = 100, 6, 8


def three_layers() -> onnx.ModelProto:
    net = Unroller()
    sequence = net.input("x", T, 1, D)
    for size in (D, H, H):
        start = net.constant(np.zeros((1, H)))
        sequence = stacked(net, layer(net, tanh_cell(net, size, H), sequence, start, range(T)))
    net.output(sequence)
    return net.model()


def test_three_layers_of_a_hundred_steps_become_three_scans(tmp_path: Path) -> None:
    proto, path = three_layers(), tmp_path / "rolled.onnx"
    found = reroll(proto, path)
    written = onnx.load(path)
    assert [own.num_steps for own in found.recurrences] == [T, T, T]
    assert [node.op_type for node in written.graph.node if node.op_type != "Constant"] == ["Scan"] * 3
    assert found.num_nodes_before == len(proto.graph.node) > 100 * found.num_nodes_after
    x = np.random.default_rng(9).standard_normal((T, 1, D)).astype(np.float32)
    (before,), (after,) = (Reference(m).run({"x": x}).values() for m in (proto, written))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


def test_a_direction_that_was_run_on_the_flipped_sequence_is_one_scan_and_no_gathers() -> None:
    """As torch's dynamo exporter writes it: the input flipped whole, the states joined from the last on."""
    net = Unroller()
    ends = [net.constant([k]) for k in (-1, -(2**62), 0, -1)]
    flipped = net.op("Slice", net.input("x", T, 1, D), *ends)
    states = layer(net, tanh_cell(net, D, H), flipped, net.constant(np.zeros((1, H))), range(T))
    rows = [net.op("Unsqueeze", state, net.constant([0])) for state in states]
    net.output(net.op("Concat", *rows[::-1], axis=0))
    net.output(net.op("Concat", net.constant(np.ones((1, 1, H))), *rows, axis=0))
    found = reroll(net.model())
    kinds = [node.op_type for node in found.model.graph.node if node.op_type != "Constant"]
    assert sorted(kinds) == ["Concat", "Scan", "Slice"]
    assert [own.is_reverse for own in found.recurrences] == [True]
    (own,) = audit(net.model(), num_samples=1).recurrences
    assert own.direction is Direction.REVERSE


@pytest.mark.slow
def test_finding_grows_about_linearly_with_the_number_of_nodes() -> None:
    seconds = {}
    for steps in (100, 400):
        net = Unroller()
        sequence = net.input("x", steps, 1, D)
        for size in (D, H):
            start = net.constant(np.zeros((1, H)))
            sequence = stacked(net, layer(net, tanh_cell(net, size, H), sequence, start, range(steps)))
        net.output(sequence)
        model = normalize(net.model(), {"x": (steps, 1, D)}, {})
        begun = time.perf_counter()
        rolled, _ = roll_steps(model, None)
        seconds[steps] = time.perf_counter() - begun
        assert all(own.num_steps >= steps - 1 for own in rolled)
        assert len(rolled) == 2
    assert seconds[400] < 4 * 2 * seconds[100] + 0.5


def test_inputs_outputs_weights_and_metadata_keep_their_names(tmp_path: Path) -> None:
    proto = gru(0, form=Form.UNROLLED, num_steps=5).model
    onnx.helper.set_model_props(proto, {"author": "somebody"})
    reroll(proto, tmp_path / "rolled.onnx")
    written = onnx.load(tmp_path / "rolled.onnx")
    assert list(written.graph.input) == list(proto.graph.input)
    assert list(written.graph.output) == list(proto.graph.output)
    assert written.metadata_props == proto.metadata_props
    stored = {tensor.name: tensor.raw_data for tensor in proto.graph.initializer if len(tensor.dims) == 2}
    kept = {tensor.name: tensor.raw_data for tensor in written.graph.initializer}
    assert stored.items() <= kept.items()


def test_a_rerolled_model_has_the_radii_of_the_unrolled_one(tmp_path: Path) -> None:
    proto = gru(0, form=Form.UNROLLED, num_steps=5).model
    reroll(proto, tmp_path / "rolled.onnx")
    x = np.random.default_rng(0).standard_normal((5, 1, 8)).astype(np.float32)
    before, after = (
        audit(m, data={"x": x}, input_shapes={"x": (5, 1, 8)}, num_samples=1)
        for m in (proto, tmp_path / "rolled.onnx")
    )
    assert [own.form for own in after.recurrences] == [Form.SCAN, Form.SCAN]
    for one, two in zip(before.layers, after.layers, strict=True):
        assert one.time_radius is not None
        assert two.time_radius is not None
        assert one.time_radius.mean == pytest.approx(two.time_radius.mean, abs=1e-5)


def test_a_model_without_unrolled_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="No unrolled recurrence"):
        reroll(gru(0).model, tmp_path / "rolled.onnx")
    assert not list(tmp_path.iterdir())


def test_the_model_itself_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(three_layers(), path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="would replace the model"):
        reroll(path, path)
    assert path.read_bytes() == before


def test_models_that_differ_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(Reference):
        def run(self, inputs, outputs=None):
            found: dict[str, Array] = super().run(inputs, outputs)
            Wrong.count += 1
            return {name: value + (Wrong.count == 2) for name, value in found.items()}

    Wrong.count = 0
    proto = gru(0, form=Form.UNROLLED, num_steps=5).model
    feeds = [{"x": np.zeros((5, 1, 8), np.float32)}]
    monkeypatch.setattr(rerolling, "Reference", Wrong)
    with pytest.raises(ParityError, match="nothing was written"):
        rerolling._largest_difference(proto, proto, feeds)


@pytest.mark.parametrize("is_open", [False, True])
def test_a_first_step_that_stays_before_the_scan_is_named_with_the_reason(is_open: bool) -> None:
    """h[0] = tanh(x[0] W + b): a step from zeros, which take a size that the file may leave open."""
    net = Unroller()
    w, u, b = net.weight(D, H), net.weight(H, H), net.weight(H)
    sequence, state = net.input("x", 4, 2, D), ""
    for step in range(4):
        read = net.op("MatMul", at(net, sequence, step), w)
        state = net.op("Tanh", net.op("Add", net.sum(read, state and net.op("MatMul", state, u)), b))
    net.output(state)
    proto = net.model()
    if is_open:
        for value in (*proto.graph.input, *proto.graph.output):
            axis = value.type.tensor_type.shape.dim[1 if value.name == "x" else 0]
            axis.dim_param = "batch"
        del proto.graph.value_info[:]
    (own,) = reroll(proto).recurrences
    (seen,) = inspect(proto).recurrences
    assert seen.num_steps == 4
    if is_open:
        assert own.num_steps == 3
        assert own.apart is not None
        assert own.apart.startswith("of 4 steps the first stays before the Scan, computed in another way: a")
    else:
        assert (own.num_steps, own.apart) == (4, None)


def split_into_a_list(net: Unroller, value: str) -> str:
    """As torch's exporter writes chunk() where nothing is optimised."""
    parts = net.op("SplitToSequence", value, net.constant([H // 2, H // 2]), axis=-1)
    return net.op("Mul", *(net.op("SequenceAt", parts, net.constant(index)) for index in (0, 1)))


def rounded(net: Unroller, value: str) -> str:
    """By an operator of ONNX Runtime's, of whose results onnx knows no type."""
    step, zero = net.constant(np.float32(2**-7)), "zero"
    net.initializers[zero] = np.array(0, np.int8)
    for op_type in ("QuantizeLinear", "DequantizeLinear"):
        value = net.op(op_type, value, step, zero)
        net.nodes[-1].domain = "com.microsoft"
    halves = net.op("Slice", value, *(net.constant([k]) for k in (0, H // 2, 1)))
    return net.op("Reshape", net.op("Cast", halves, to=onnx.TensorProto.FLOAT), net.constant([1, H // 2]))


@pytest.mark.parametrize("through", [split_into_a_list, rounded])
def test_steps_keep_the_types_of_their_values_whatever_these_are(
    through: Callable[[Unroller, str], str],
) -> None:
    net = Unroller()
    x, w, u = net.input("x", 6, 1, D), net.weight(D, H), net.weight(H // 2, H)
    rows = [net.input("h", 1, H // 2)]
    for step in range(6):
        summed = net.op("Add", net.op("MatMul", at(net, x, step), w), net.op("MatMul", rows[-1], u))
        rows.append(net.op("Tanh", through(net, net.op("Tanh", summed))))
    net.output(stacked(net, rows[1:]))
    proto = net.model()
    found = reroll(proto)
    assert [own.num_steps for own in found.recurrences] == [6]
    assert found.max_abs_error < 1e-5
