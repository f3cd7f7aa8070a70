"""What real exporters write is recognised: the forms, layers, steps and directions that the models have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from exported_models import exported_model
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from lsc_graph.audit_model import audit, inspect
from lsc_graph.results import Analysis, Axis, Direction, Form, Statistics

F, R = Direction.FORWARD, Direction.REVERSE
T, D, H = 12, 8, 16

# name, framework: (form, time direction of each layer, sizes of their states)
EXPECTED = {
    ("rnn_1.dynamo", "torch"): (Form.UNROLLED, [F], [H]),
    ("rnn_3.dynamo", "torch"): (Form.UNROLLED, [F] * 3, [H] * 3),
    ("rnn_bi.dynamo", "torch"): (Form.UNROLLED, [F, R] * 2, [H] * 4),
    ("gru_2.dynamo", "torch"): (Form.FUSED_OP, [F] * 2, [H] * 2),
    ("gru_2.legacy", "torch"): (Form.FUSED_OP, [F] * 2, [H] * 2),
    ("rnn_3.legacy", "torch"): (Form.FUSED_OP, [F] * 3, [H] * 3),
    ("steps_RNNCell.dynamo", "torch"): (Form.UNROLLED, [F], [H]),
    ("steps_GRUCell.dynamo", "torch"): (Form.UNROLLED, [F], [H]),
    ("steps_LSTMCell.dynamo", "torch"): (Form.UNROLLED, [F], [2 * H]),
    ("steps_LSTMCell.legacy", "torch"): (Form.UNROLLED, [F], [2 * H]),
    ("last_RNNCell.dynamo", "torch"): (Form.UNROLLED, [F], [H]),
    ("last_GRUCell.dynamo", "torch"): (Form.UNROLLED, [F], [H]),
    ("last_LSTMCell.dynamo", "torch"): (Form.UNROLLED, [F], [2 * H]),
    ("two_cells.dynamo", "torch"): (Form.UNROLLED, [F] * 2, [H] * 2),
    ("diagonal.dynamo", "torch"): (Form.UNROLLED, [F], [2 * H]),
    ("spiking.dynamo", "torch"): (Form.UNROLLED, [F], [3 * H]),
    ("backwards.dynamo", "torch"): (Form.UNROLLED, [R], [H]),
    ("hoisted.dynamo", "torch"): (Form.UNROLLED, [F], [H]),
    ("selective.dynamo", "torch"): (Form.UNROLLED, [F], [H]),
    ("normed.dynamo", "torch"): (Form.UNROLLED, [F], [2 * H]),
    ("normed.legacy", "torch"): (Form.UNROLLED, [F], [2 * H]),
    ("any_batch.dynamo", "torch"): (Form.UNROLLED, [F], [2 * H]),
    ("hard_spikes.dynamo", "torch"): (Form.UNROLLED, [F] * 2, [3 * H] * 2),
    ("hard_spikes.legacy", "torch"): (Form.UNROLLED, [F] * 2, [3 * H] * 2),
    ("images.dynamo", "torch"): (Form.UNROLLED, [F], [2 * 2 * 9]),
    ("relu.dynamo", "torch"): (Form.UNROLLED, [F] * 2, [H] * 2),
    ("relu.legacy", "torch"): (Form.FUSED_OP, [F] * 2, [H] * 2),
    ("list.script", "torch"): (Form.LOOP, [F], [H]),
    ("buffer.script", "torch"): (Form.LOOP, [F], [H]),
    ("while.script", "torch"): (Form.LOOP, [F], [H]),
    ("scan.dynamo", "torch"): (Form.SCAN, [F], [H]),
    ("scan_reverse.dynamo", "torch"): (Form.SCAN, [R], [H]),
    ("while_loop.dynamo", "torch"): (Form.LOOP, [F], [H]),
    ("counted.onnxscript", "onnxscript"): (Form.LOOP, [F], [H]),
    ("until.onnxscript", "onnxscript"): (Form.LOOP, [F], [H]),
    ("scan.jax", "jax"): (Form.LOOP, [F], [H]),
    ("scan_twice.jax", "jax"): (Form.LOOP, [F] * 2, [H] * 2),
    ("scan_of_both.jax", "jax"): (Form.LOOP, [F], [H] * 2),
    ("lstm.jax", "jax"): (Form.LOOP, [F], [2 * H]),
    ("while_loop.jax", "jax"): (Form.LOOP, [F], [H]),
    ("fori_loop.jax", "jax"): (Form.LOOP, [F], [H]),
    ("fori_loop_backwards.jax", "jax"): (Form.LOOP, [R], [H]),
    ("fori_loop_into_buffer.jax", "jax"): (Form.LOOP, [F], [H]),
    ("while_loop_into_buffer.jax", "jax"): (Form.LOOP, [F], [H]),
    ("scan_with_float_counter.jax", "jax"): (Form.LOOP, [F], [H]),
    ("scan_with_mask.jax", "jax"): (Form.LOOP, [F], [H]),
    ("both_ways.jax", "jax"): (Form.LOOP, [R, F], [H] * 2),
    ("lstm_2.keras", "keras"): (Form.LOOP, [F] * 2, [2 * H] * 2),
    ("gru.keras", "keras"): (Form.LOOP, [F], [H]),
    ("simple_rnn.keras", "keras"): (Form.LOOP, [F], [H]),
    ("bidirectional.keras", "keras"): (Form.LOOP, [F, R, F], [2 * H] * 3),
    ("summed.keras", "keras"): (Form.LOOP, [F, R, F], [H] * 3),
    ("backwards.keras", "keras"): (Form.LOOP, [R], [H]),
    ("stacked_cells.keras", "keras"): (Form.LOOP, [F], [2 * H, H]),
    ("unrolled.keras", "keras"): (Form.UNROLLED, [F], [2 * H]),
    ("in_time_and_space.keras", "keras"): (Form.LOOP, [F], [2 * 2 * 4]),
    ("custom.keras", "keras"): (Form.LOOP, [F], [H]),
    ("custom_last.keras", "keras"): (Form.LOOP, [F], [H]),
    ("custom_any_length.keras", "keras"): (Form.LOOP, [F], [H]),
    ("while_loop.keras", "keras"): (Form.LOOP, [F], [H]),
}
OPEN_LENGTH = ("list.script", "buffer.script", "while.script", "custom_any_length.keras")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "framework"), EXPECTED)
def test_recurrences_are_found_as_they_were_written(name: str, framework: str) -> None:
    form, directions, sizes = EXPECTED[name, framework]
    path = exported_model(framework, name)
    analysis = audit(path, num_steps=T if name in OPEN_LENGTH else None, num_samples=1)
    assert {own.form for own in analysis.recurrences} == {form}
    assert [own.direction for own in analysis.recurrences] == directions
    assert {(own.num_steps, own.over) for own in analysis.recurrences} == {(T, Axis.TIME)}
    assert [layer.state_size for layer in analysis.layers] == sizes
    assert all(own.weights for own in analysis.recurrences)
    assert analysis.black_box is None


def assert_alike(one: Analysis, two: Analysis, tolerance: float = 1e-5) -> None:
    """The same grid, and the same radii and gains of every layer."""
    assert one.grid == two.grid
    assert [layer.state_size for layer in one.layers] == [layer.state_size for layer in two.layers]
    for a, b in zip(one.layers, two.layers, strict=True):
        for quantity in ("time_radius", "time_gain", "depth_radius", "depth_gain"):
            mine, its = getattr(a, quantity), getattr(b, quantity)
            assert (mine is None) == (its is None)
            assert mine is None or mine.mean == pytest.approx(its.mean, abs=tolerance), quantity


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rnn_1", "rnn_3", "rnn_bi", "relu"])
def test_both_exporters_of_torch_give_the_same_radii(name: str) -> None:
    """One writes fused operators, the other unrolls."""
    fused, unrolled = (
        audit(exported_model("torch", f"{name}.{kind}"), num_samples=2) for kind in ("legacy", "dynamo")
    )
    assert {own.form for own in fused.recurrences} == {Form.FUSED_OP}
    assert {own.form for own in unrolled.recurrences} == {Form.UNROLLED}
    assert_alike(fused, unrolled)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sizes"), [("attending", [H, H + 4]), ("speaking", [4 * H + D + 2 * T + 4])]
)
def test_decoders_have_the_state_that_they_were_written_with_whatever_was_folded(
    name: str, sizes: list[int]
) -> None:
    """Of a first step that only depends on zeros, the dynamo exporter leaves hardly anything."""
    legacy, dynamo = (
        audit(exported_model("torch", f"{name}.{kind}"), num_samples=1) for kind in ("legacy", "dynamo")
    )
    assert [layer.state_size for layer in dynamo.layers] == sizes
    assert_alike(legacy, dynamo)


@pytest.mark.slow
@pytest.mark.parametrize("form", [QuantFormat.QOperator, QuantFormat.QDQ])
def test_quantised_steps_are_the_steps_of_the_float_model(tmp_path: Path, form: QuantFormat) -> None:
    """Scales of its own at every step, and a first step whose product the exporter has folded."""
    path, x = exported_model("torch", "rnn_3.dynamo"), np.random.default_rng(0).normal(size=(T, 1, D))
    name = onnx.load(path).graph.input[0].name
    feeds = [{name: (scale * x).astype(np.float32)} for scale in (-1.3, 0.5, 1.0, 1.3)]
    reader = Reader(feeds)
    quantize_static(path, tmp_path / "int8.onnx", reader, quant_format=form)
    data = {name: x.astype(np.float32)}
    before, after = (audit(own, data=data, num_samples=1) for own in (path, tmp_path / "int8.onnx"))
    assert [own.num_steps for own in after.recurrences] == [T] * 3
    assert_alike(before, after, 0.01)


class Reader(CalibrationDataReader):
    def __init__(self, feeds: list[dict[str, np.ndarray]]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def _numbers(found: Statistics | None) -> list[float]:
    return [] if found is None else [found.mean, found.min, found.max, float(found.num_points)]


@pytest.mark.slow
def test_one_scan_for_two_layers_and_one_for_each_are_the_same_network() -> None:
    both, twice = (
        audit(exported_model("jax", name), num_samples=1) for name in ("scan_of_both.jax", "scan_twice.jax")
    )
    assert both.grid == twice.grid
    for one, two in zip(both.layers, twice.layers, strict=True):
        assert one.time_radius == two.time_radius
        assert _numbers(one.depth_gain) == pytest.approx(_numbers(two.depth_gain), rel=1e-12)


OVER_DEPTH = {
    ("tied_blocks.dynamo", "torch"): (Form.UNROLLED, 6, 5 * H),
    ("tied_convolutions.dynamo", "torch"): (Form.UNROLLED, 5, 2 * 25),
    ("equilibrium.dynamo", "torch"): (Form.UNROLLED, 8, H),
    ("equilibrium.legacy", "torch"): (Form.UNROLLED, 8, H),
    ("settling.dynamo", "torch"): (Form.LOOP, None, H),
    ("equilibrium.jax", "jax"): (Form.LOOP, 8, H),
    ("settling.jax", "jax"): (Form.LOOP, None, H),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "framework"), OVER_DEPTH)
def test_tied_and_looped_layers_are_a_recurrence_over_depth(name: str, framework: str) -> None:
    """Where data decide how often a layer is applied, the steps are those of a sample, which is said."""
    form, num_steps, size = OVER_DEPTH[name, framework]
    analysis = audit(exported_model(framework, name), num_samples=1)
    (own,), (layer,) = analysis.recurrences, analysis.layers
    assert (own.form, own.over, layer.state_size) == (form, Axis.DEPTH, size)
    assert own.num_steps == (num_steps or own.num_steps)
    assert (num_steps is None) == any("depends on the data" in warning for warning in analysis.warnings)
    assert own.weights
    assert analysis.black_box is None


@pytest.mark.slow
def test_a_loop_over_layers_with_weights_of_their_own_is_a_chain_of_layers() -> None:
    analysis = audit(exported_model("jax", "over_layers.jax"), num_samples=1)
    assert analysis.recurrences == ()
    assert [layer.state_size for layer in analysis.layers] == [H] * 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dynamo", "legacy"])
@pytest.mark.parametrize(("name", "decoder", "num_paths"), [("greedy", H, 1), ("attending", H + 4, T * T)])
def test_a_decoder_that_is_fed_its_own_output_is_a_layer_above_the_encoder(
    name: str, decoder: int, num_paths: int, kind: str
) -> None:
    """A chosen token is an integer, which no gradient passes; attention connects every pair of steps."""
    analysis = audit(exported_model("torch", f"{name}.{kind}"), num_samples=1)
    assert [own.form for own in analysis.recurrences] == [Form.FUSED_OP, Form.UNROLLED]
    assert [layer.state_size for layer in analysis.layers] == [H, decoder]
    assert int(analysis.grid.num_gradient_paths) == num_paths


@pytest.mark.slow
def test_an_iteration_that_trains_nothing_is_part_of_what_is_around_it() -> None:
    found = inspect(exported_model("jax", "balancing.jax"))
    assert found.recurrences == ()
    assert any("train no weight" in refusal.reason for refusal in found.refusals)


@pytest.mark.slow
def test_siamese_branches_are_no_recurrence_and_the_reason_is_given() -> None:
    found = inspect(exported_model("torch", "siamese.dynamo"))
    assert found.recurrences == ()
    assert any("do not depend on each other" in refusal.reason for refusal in found.refusals)


@pytest.mark.slow
def test_three_layers_of_forty_steps_are_found() -> None:
    found = inspect(exported_model("torch", "rnn_40.dynamo"))
    assert [own.num_steps for own in found.recurrences] == [40] * 3
