"""What becomes of a fused operator, looked at one property at a time."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import conformance
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper
from oracles_fused import (
    NUM_ACTIVATIONS,
    OUTPUTS,
    Case,
    lowered,
    op_types,
    random_case,
    run_oracle,
    run_ort,
    run_torch,
)

from lsc_graph.errors import AnalysisError, UnsupportedOpsetError
from lsc_graph.recurrence.fused_ops import lower_fused_ops
from lsc_graph.results import Direction

OPS = ("RNN", "GRU", "LSTM")
every_op = pytest.mark.parametrize("op_type", OPS)
every_direction = pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])


def remove_attribute(node: onnx.NodeProto, name: str) -> None:
    del node.attribute[next(i for i, attribute in enumerate(node.attribute) if attribute.name == name)]


def assert_close(got: dict, expected: dict[str, np.ndarray], tolerance: float = 1e-5, of: str = "") -> None:
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(
            np.asarray(got[name]), array, rtol=tolerance, atol=tolerance, err_msg=of + name
        )


def assert_same_as_original(case: Case) -> None:
    """ONNX Runtime on the original, on the rewritten model, and torch on the rewritten model all agree."""
    model = case.model()
    rewritten, _ = lowered(model)
    expected = run_ort(model, case.feeds(model))
    assert_close(expected, case.expected())
    assert_close(run_ort(rewritten, case.feeds(model)), expected)
    assert_close(run_torch(rewritten, case.feeds(model)), expected)


def test_the_recurrent_conformance_cases_give_their_outputs_in_onnx_runtime_and_in_torch() -> None:
    cases = list(conformance.cases("^test_(rnn|gru|lstm|simple_rnn)_"))
    assert len(cases) >= 18
    for case in cases:
        rewritten, _ = lowered(case.proto)
        assert op_types(rewritten).isdisjoint(OPS), case.name
        for inputs, expected in case.data:
            assert_close(run_ort(rewritten, inputs), expected, of=f"{case.name}: ")
            assert_close(run_torch(rewritten, inputs), expected, of=f"{case.name}: ")


@every_op
@every_direction
def test_one_scan_per_direction_takes_the_place_of_the_node(op_type: str, direction: str) -> None:
    rewritten, (op,) = lowered(random_case(op_type, direction=direction).model())
    assert (op.node_name, op.op_type, op.direction) == ("rnn", op_type, Direction(direction))
    ways = ["forward", "reverse"] if direction == "bidirectional" else [direction]
    assert [scan.name for scan in op.scans] == [f"rnn.{way}" for way in ways]
    assert op.state_names == (("h", "c") if op_type == "LSTM" else ("h",))
    assert [node.name for node in rewritten.graph.node if node.op_type == "Scan"] == [
        s.name for s in op.scans
    ]


@every_op
def test_the_step_body_captures_its_weights_and_holds_no_float_initializer(op_type: str) -> None:
    case = random_case(op_type, with_inputs=("B", "P") if op_type == "LSTM" else ("B",))
    _, (op,) = lowered(case.model())
    body = op.scans[0].attributes["body"].as_graph()
    assert not body.initializers
    assert {"rnn.forward.W_T"} <= {value.name for node in body for value in node.inputs if value is not None}


@every_op
@every_direction
@pytest.mark.parametrize("lens", [None, (2, 4, 0)])
def test_scan_outputs_are_the_states_after_every_step_in_true_time_order(
    op_type: str, direction: str, lens: tuple[int, ...] | None
) -> None:
    case = random_case(op_type, direction=direction, batch=3, lens=lens)
    rewritten, (op,) = lowered(case.model())
    names = [f"{scan.name}.{state}" for scan in op.scans for state in op.state_names]
    dtype = onnx.TensorProto.FLOAT
    rewritten.graph.output.extend(onnx.helper.make_tensor_value_info(name, dtype, None) for name in names)
    got = run_ort(rewritten, case.feeds(rewritten))
    oracle = run_oracle(case)
    for index, scan in enumerate(op.scans):
        for state in op.state_names:
            expected = oracle[f"{state}_{index}"]
            np.testing.assert_allclose(got[f"{scan.name}.{state}"], expected, rtol=1e-5, atol=1e-6)


@every_op
def test_types_and_shapes_of_new_values_are_the_inferred_ones(op_type: str) -> None:
    case = random_case(op_type, direction="bidirectional", lens=(3, 4), layout=0)
    rewritten, _ = lowered(case.model())
    declared = {value.name: value.type for value in rewritten.graph.value_info}
    del rewritten.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(rewritten, strict_mode=True, data_prop=True)
    compared = [value for value in inferred.graph.value_info if value.name in declared]
    assert len(compared) > 20
    for value in compared:
        assert value.type.tensor_type.elem_type == declared[value.name].tensor_type.elem_type, value.name
        assert value.type.tensor_type.shape == declared[value.name].tensor_type.shape, value.name


@every_op
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("lens", [None, (3, 1)])
def test_dynamic_batch_and_time_axes_work(op_type: str, layout: int, lens: tuple[int, ...] | None) -> None:
    case = random_case(op_type, direction="bidirectional", lens=lens, with_inputs=("B",), layout=layout)
    model = case.model(dynamic=True)
    rewritten, _ = lowered(model)
    assert_close(run_ort(rewritten, case.feeds(model)), case.expected())
    assert_close(run_torch(rewritten, case.feeds(model)), case.expected())


@pytest.mark.parametrize(("op_type", "position"), [(op, k) for op in OPS for k in range(len(OUTPUTS[op]))])
def test_outputs_that_are_not_asked_for_may_be_missing(op_type: str, position: int) -> None:
    names = OUTPUTS[op_type]
    wanted = tuple(name if index == position else "" for index, name in enumerate(names))
    assert_same_as_original(random_case(op_type, outputs=wanted[: position + 1], direction="bidirectional"))


@every_op
def test_values_computed_behind_the_node_still_read_its_outputs(op_type: str) -> None:
    case = random_case(op_type)
    model = case.model()
    model.graph.node.append(onnx.helper.make_node("Mul", ["Y", "Y"], ["squared"]))
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("squared", onnx.TensorProto.FLOAT, [None] * 4)
    )
    rewritten, _ = lowered(model)
    got = run_ort(rewritten, case.feeds(model))
    np.testing.assert_allclose(got["squared"], case.expected()["Y"] ** 2, rtol=1e-5, atol=1e-6)


@every_op
def test_the_hidden_size_is_inferred_from_the_recurrent_weight(op_type: str) -> None:
    case = random_case(op_type)
    model = case.model()
    remove_attribute(model.graph.node[0], "hidden_size")
    rewritten, _ = lowered(model)
    assert_close(run_ort(rewritten, case.feeds(model)), case.expected())


@every_op
@pytest.mark.parametrize("opset", [13, 14, 17, 18, 21, 22, 23])
def test_the_rewritten_model_runs_at_every_supported_opset(op_type: str, opset: int) -> None:
    assert_same_as_original(random_case(op_type, direction="bidirectional", lens=(4, 2), opset=opset))


@every_op
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float16, 4e-3)])
def test_double_and_half_precision_stay_what_they_are(op_type: str, dtype: type, tolerance: float) -> None:
    case = random_case(op_type, direction="reverse", lens=(4, 2), dtype=dtype, clip=0.5)
    model = case.model()
    rewritten, _ = lowered(model)
    assert_close(run_ort(rewritten, case.feeds(model)), case.expected(), tolerance)
    assert_close(run_torch(rewritten, case.feeds(model)), case.expected(), tolerance)


@every_op
@every_direction
def test_steps_past_the_sequence_length_keep_the_state_and_emit_zeros(op_type: str, direction: str) -> None:
    assert_same_as_original(random_case(op_type, direction=direction, batch=4, lens=(1, 4, 0, 2)))


@every_op
def test_sequence_lengths_that_are_constant_and_full_leave_no_mask(op_type: str) -> None:
    case = random_case(op_type, lens=(4, 4))
    model = case.model()
    model.graph.input.pop(next(i for i, v in enumerate(model.graph.input) if v.name == "sequence_lens"))
    model.graph.initializer.append(numpy_helper.from_array(case.inputs["sequence_lens"], "sequence_lens"))
    rewritten, _ = lowered(model)
    assert "Less" not in op_types(rewritten)
    assert_close(run_ort(rewritten, case.feeds(model)), case.expected())


@every_op
def test_clip_bounds_the_gates_before_activation_as_onnx_runtime_does(op_type: str) -> None:
    case = random_case(op_type, with_inputs=("B", "initial_h"), scale=2.0, clip=0.3)
    assert_same_as_original(case)
    unclipped = Case(case.op_type, case.inputs, {"direction": "forward"})
    assert np.abs(unclipped.expected()["Y"] - case.expected()["Y"]).max() > 0.1


def test_clip_does_not_bound_the_cell_state_of_an_lstm() -> None:
    case = random_case(
        "LSTM", steps=8, scale=2.0, clip=0.3, activations=["Affine"] * 3, activation_alpha=[2.0] * 3
    )
    assert np.abs(case.expected()["Y_c"]).max() > 0.6
    assert_same_as_original(case)


def test_a_negative_clip_is_none_for_rnn() -> None:
    case = random_case("RNN", clip=-1.0)
    model = case.model()
    rewritten, _ = lowered(model)
    assert_close(run_ort(rewritten, case.feeds(model)), run_ort(model, case.feeds(model)))


@pytest.mark.parametrize("name", ["Affine", "ScaledTanh", "ThresholdedRelu"])
@every_op
def test_onnx_runtime_takes_zero_for_a_missing_parameter_where_onnx_says_otherwise(
    op_type: str, name: str
) -> None:
    activations = ["Sigmoid", name, "Tanh"][: NUM_ACTIVATIONS[op_type]] if op_type != "RNN" else [name]
    assert_same_as_original(random_case(op_type, activations=activations))


@pytest.mark.parametrize("op_type", ["GRU", "LSTM"])
def test_activation_names_are_read_in_any_case(op_type: str) -> None:
    names = ["sigmoid", "RELU", "softSign"][: NUM_ACTIVATIONS[op_type]]
    assert_same_as_original(random_case(op_type, activations=names))


def test_softplus_stays_finite_where_onnx_runtime_overflows() -> None:
    case = random_case("RNN", steps=1, activations=["Softplus"], scale=20.0)
    model = case.model()
    rewritten, _ = lowered(model)
    assert np.isinf(run_ort(model, case.feeds(model))["Y"]).any()
    assert_close(run_ort(rewritten, case.feeds(model)), case.expected())


def test_two_nodes_of_the_same_name_get_distinct_names() -> None:
    case = random_case("GRU")
    model = case.model()
    twin = onnx.NodeProto()
    twin.CopyFrom(model.graph.node[0])
    twin.output[:] = ["Y2", "Y_h2"]
    model.graph.node.append(twin)
    model.graph.output.append(onnx.helper.make_tensor_value_info("Y2", onnx.TensorProto.FLOAT, [None] * 4))
    rewritten, ops = lowered(model)
    assert [op.node_name for op in ops] == ["rnn", "rnn_2"]
    got = run_torch(rewritten, case.feeds(model))
    np.testing.assert_array_equal(got["Y"], got["Y2"])


@pytest.mark.parametrize("taken", ["rnn.forward.W_T", "rnn_forward_h", "rnn/forward"])
def test_names_that_would_clash_in_the_model_or_in_torch_are_avoided(taken: str) -> None:
    case = random_case("LSTM")
    model = case.model()
    model.graph.initializer.append(numpy_helper.from_array(np.float32(3.0), taken))
    model.graph.node.append(onnx.helper.make_node("Mul", ["Y", taken], ["scaled"]))
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("scaled", onnx.TensorProto.FLOAT, [None] * 4)
    )
    rewritten, _ = lowered(model)
    for run in (run_ort, run_torch):
        got = run(rewritten, case.feeds(model))
        np.testing.assert_allclose(got["scaled"], 3 * case.expected()["Y"], rtol=1e-5, atol=1e-6)


def test_a_nameless_node_is_called_after_its_operator() -> None:
    model = random_case("RNN").model()
    model.graph.node[0].name = ""
    assert lowered(model)[1][0].node_name == "RNN"


def test_a_node_inside_a_branch_is_rewritten_where_it_is() -> None:
    case = random_case("GRU", with_inputs=("B",), outputs=("Y",))
    model = case.model()
    node = model.graph.node.pop()
    output = onnx.helper.make_tensor_value_info("Y", onnx.TensorProto.FLOAT, None)
    silent = onnx.helper.make_node("Mul", ["X", "X"], ["other"])
    other = onnx.helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, None)
    branches = {
        "then_branch": onnx.helper.make_graph([node], "then", [], [output]),
        "else_branch": onnx.helper.make_graph([silent], "else", [], [other]),
    }
    model.graph.node.append(onnx.helper.make_node("If", ["flag"], ["Z"], **branches))
    model.graph.output[0].name = "Z"
    model.graph.input.append(onnx.helper.make_tensor_value_info("flag", onnx.TensorProto.BOOL, []))
    rewritten = ir.from_proto(model)
    (op,) = lower_fused_ops(rewritten)
    assert op.scans[0].graph is not rewritten.graph
    feeds = {"X": case.inputs["X"], "flag": np.array(True)}
    np.testing.assert_allclose(
        run_ort(ir.to_proto(rewritten), feeds)["Z"], case.expected()["Y"], rtol=1e-5, atol=1e-6
    )


MODULES: dict[str, Callable[..., torch.nn.Module]] = {
    "RNN": torch.nn.RNN,
    "GRU": torch.nn.GRU,
    "LSTM": torch.nn.LSTM,
}


@every_op
def test_weights_that_the_exporter_computes_by_slicing_lead_back_to_the_torch_parameters(
    op_type: str,
) -> None:
    torch.manual_seed(0)
    module = MODULES[op_type](3, 4, num_layers=2, bidirectional=True)
    x = torch.randn(5, 2, 3)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (x,), file, dynamo=False, do_constant_folding=False, input_names=["x"], output_names=["y"]
        )
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(file.getvalue()))
    rewritten, ops = lowered(model)
    assert len(ops) == 2
    expected = module(x)[0]
    np.testing.assert_allclose(
        run_ort(rewritten, {"x": x.numpy()})["y"], expected.detach(), rtol=1e-5, atol=1e-6
    )
    names = [name for name, _ in module.named_parameters()]
    move_to_inputs(rewritten, names)
    weights = {name: value.detach().clone().requires_grad_() for name, value in module.named_parameters()}
    (run_torch(rewritten, {"x": x, **weights})["y"] ** 2).sum().backward()
    (expected**2).sum().backward()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(weights[name].grad, parameter.grad, rtol=1e-4, atol=1e-5)


def move_to_inputs(model: onnx.ModelProto, names: list[str]) -> None:
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in names]
    for tensor in model.graph.initializer:
        if tensor.name in names:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            model.graph.input.append(value)
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def refusal(case: Case) -> str:
    with pytest.raises(AnalysisError) as error:
        lowered(case.model())
    return str(error.value)


def test_an_operator_set_below_13_is_refused() -> None:
    with pytest.raises(UnsupportedOpsetError, match=r"opset 12"):
        lowered(random_case("RNN", opset=12).model())


def test_an_unknown_activation_is_refused_with_the_known_ones() -> None:
    text = refusal(random_case("GRU", activations=["Sigmoid", "Swish"]))
    assert "Swish" in text
    assert "HardSigmoid" in text


@every_op
def test_a_wrong_number_of_activations_is_refused(op_type: str) -> None:
    assert "Wrong number" in refusal(random_case(op_type, activations=["Tanh"] * 5))


@pytest.mark.parametrize("op_type", ["GRU", "LSTM"])
@pytest.mark.parametrize("clip", [0.0, -1.0])
def test_a_clip_that_is_not_positive_is_refused_as_in_onnx_runtime(op_type: str, clip: float) -> None:
    assert "not positive" in refusal(random_case(op_type, clip=clip))


def test_an_unknown_direction_is_refused() -> None:
    case = random_case("RNN")
    assert "sideways" in refusal(Case("RNN", case.inputs, {"direction": "sideways"}))


def test_weights_of_the_wrong_shape_are_refused() -> None:
    case = random_case("LSTM")
    case.inputs["R"] = case.inputs["R"][:, :-1]
    assert "Input R" in refusal(case)


def test_an_unknown_hidden_size_is_refused() -> None:
    model = random_case("RNN").model(dynamic=True, fed=("W", "R", "B"))
    remove_attribute(model.graph.node[0], "hidden_size")
    with pytest.raises(AnalysisError, match="hidden size"):
        lower_fused_ops(ir.from_proto(model))
