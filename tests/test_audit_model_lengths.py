"""Recurrences that take different numbers of steps: encoders and decoders, tied blocks beside time."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from exported_models import exported_model
from onnx import TensorProto, helper, numpy_helper

from lsc_graph.audit_model import audit
from lsc_graph.counting.model_cells import model_cells
from lsc_graph.errors import UsageError
from lsc_graph.results import Analysis, Axis, GrowthPoint

SIZE, ENCODER, DECODER = 4, 7, 4


def weights(**shapes: tuple[int, ...]) -> list[onnx.TensorProto]:
    draw = np.random.default_rng(0).standard_normal
    return [numpy_helper.from_array(draw(s).astype(np.float32) / 2, name) for name, s in shapes.items()]


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    output: str,
    constants: list[onnx.TensorProto],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def encoder_decoder(*, reads_mean: bool) -> onnx.ModelProto:
    """A decoder of 4 steps that starts from an encoder's state after 7; with its mean at every step, too."""
    square = (1, SIZE, SIZE)
    constants = weights(We=square, Re=square, Wd=square, Rd=square)
    nodes = [helper.make_node("RNN", ["x", "We", "Re"], ["es", "e"], "encoder", hidden_size=SIZE)]
    drive = "z"
    if reads_mean:
        constants.append(numpy_helper.from_array(np.array([0, 1]), "axes"))
        nodes.append(helper.make_node("ReduceMean", ["es", "axes"], ["mean"], keepdims=0))
        nodes.append(helper.make_node("Add", ["z", "mean"], ["mixed"]))
        drive = "mixed"
    start = "" if reads_mean else "e"
    decoder = helper.make_node("RNN", [drive, "Wd", "Rd", "", "", start], ["y"], "decoder", hidden_size=SIZE)
    shapes = {"x": [ENCODER, 1, SIZE], "z": [DECODER, 1, SIZE]}
    return model_of([*nodes, decoder], shapes, "y", constants)


def tied_blocks_after_time() -> onnx.ModelProto:
    """An RNN of 7 steps, and three residual blocks of one weight on its last state."""
    square = (1, SIZE, SIZE)
    nodes = [helper.make_node("RNN", ["x", "W", "R"], ["ys", "y0"], "rnn", hidden_size=SIZE)]
    for k in range(4):
        nodes.append(helper.make_node("MatMul", [f"y{k}", "B"], [f"m{k}"]))
        nodes.append(helper.make_node("Tanh", [f"m{k}"], [f"a{k}"]))
        nodes.append(helper.make_node("Add", [f"y{k}", f"a{k}"], [f"y{k + 1}"]))
    constants = weights(W=square, R=square, B=(SIZE, SIZE))
    return model_of(nodes, {"x": [ENCODER, 1, SIZE]}, "y4", constants)


def steps_of(analysis: Analysis) -> list[int]:
    return [recurrence.num_steps for recurrence in analysis.recurrences]


def point(analysis: Analysis, dl: int, dt: int) -> GrowthPoint:
    return next(p for p in analysis.growth.table if (p.dl, p.dt) == (dl, dt))


def test_a_decoder_that_starts_where_the_encoder_ends_has_a_single_path() -> None:
    analysis = audit(encoder_decoder(reads_mean=False), num_samples=2)
    assert steps_of(analysis) == [ENCODER, DECODER]
    assert [layer.state_size for layer in analysis.layers] == [SIZE, SIZE]
    assert analysis.grid.num_gradient_paths == "1"
    assert max(p.dt for p in analysis.growth.table if p.dl == 1) == ENCODER - 1
    assert max(p.dt for p in analysis.growth.table if p.dl == 0) == DECODER - 1


def test_a_decoder_that_reads_the_mean_has_a_path_for_every_pair_of_steps() -> None:
    analysis = audit(encoder_decoder(reads_mean=True), num_samples=2)
    assert steps_of(analysis) == [ENCODER, DECODER]
    assert analysis.grid.num_gradient_paths == str(ENCODER * DECODER)
    assert point(analysis, 1, ENCODER - 1).log10_num_paths == pytest.approx(np.log10(ENCODER * DECODER))


def test_tied_blocks_beside_time_are_a_recurrence_over_depth() -> None:
    analysis = audit(tied_blocks_after_time(), num_samples=2)
    assert [recurrence.over for recurrence in analysis.recurrences] == [Axis.TIME, Axis.DEPTH]
    assert steps_of(analysis)[0] == ENCODER
    assert analysis.grid.num_gradient_paths == "1"


def test_paths_over_other_lengths_are_refused() -> None:
    with pytest.raises(UsageError, match="different numbers of steps"):
        model_cells(encoder_decoder(reads_mean=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm_bi.dynamo", "gru_2.dynamo", "rnn_3.dynamo", "gru_2.legacy"])
@pytest.mark.parametrize("is_declared_open", [False, True])
def test_files_of_one_length_say_so_whatever_they_declare(name: str, is_declared_open: bool) -> None:
    """Fused operators of the legacy exporter take any length, once their input declares it."""
    model = onnx.load(exported_model("torch", name))
    if is_declared_open:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "time"
    for num_steps in (6, 24):
        if is_declared_open and name == "gru_2.legacy":
            assert audit(model, num_steps=num_steps, num_samples=1).grid.num_steps == num_steps
            continue
        with pytest.raises(UsageError) as caught:
            audit(model, num_steps=num_steps)
        assert "recurrences take 12" in str(caught.value)
        assert "length is fixed in the file" in str(caught.value)


def test_an_open_length_is_not_called_fixed() -> None:
    """A convolution of stride 2 leads to 4 steps at 8 times and 9, and to 5 at 10."""
    kernels = weights(K=(SIZE, SIZE, 2), W=(1, SIZE, SIZE), R=(1, SIZE, SIZE))
    nodes = [
        helper.make_node("Transpose", ["x"], ["rows"], perm=[1, 2, 0]),
        helper.make_node("Conv", ["rows", "K"], ["halved"], strides=[2]),
        helper.make_node("Transpose", ["halved"], ["back"], perm=[2, 0, 1]),
        helper.make_node("RNN", ["back", "W", "R"], ["y"], "rnn", hidden_size=SIZE),
    ]
    model = model_of(nodes, {"x": ["time", 1, SIZE]}, "y", kernels)
    assert audit(model, num_steps=5, num_samples=1).grid.num_steps == 5
    with pytest.raises(UsageError, match="input shapes imply"):
        audit(model, num_steps=5, input_shapes={"x": (8, 1, SIZE)})
