"""Whoever reads a new state in another shape reads the new state, so that layers stay at their own time."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from lsc_graph.models.lstm import lstm

from lsc_graph.audit_model import audit
from lsc_graph.recurrence.dataflow import direct_sources
from lsc_graph.recurrence.new_states import read_new_states
from lsc_graph.running.reference import Reference

WRITERS = {
    "a copy": ("float[2, 3]", "after = Identity(h)"),
    "one axis more": ("float[1, 2, 3]", "after = Unsqueeze(h, zero)"),
    "expanded to one axis more": ("float[1, 2, 3]", "after = Expand(h, one_more)"),
    "tiled once": ("float[2, 3]", "after = Tile(h, once)"),
    "turned": ("float[3, 2]", "after = Transpose<perm = [1, 0]>(h)"),
    "turned and packed": ("float[6]", "turned = Transpose(h)\n after = Reshape(turned, flat)"),
}


def step(writer: str) -> ir.Model:
    """h = tanh(x); what the next layer reads is h itself, and so is an output."""
    shape, text = WRITERS[writer]
    proto = onnx.parser.parse_model(f"""
    <ir_version: 8, opset_import: ["" : 17]>
    step (float[2, 3] x) => ({shape} after, float[2, 3] h, float[2, 3] upper)
    <int64[1] zero = {{0}}, int64[1] flat = {{6}}, int64[3] one_more = {{1, 2, 3}}, int64[2] once = {{1, 1}}>
    {{
        h = Tanh(x)
        {text}
        upper = Sigmoid(h)
    }}
    """)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


@pytest.mark.parametrize("writer", WRITERS)
def test_readers_and_outputs_depend_on_the_new_state_and_nothing_else_changes(writer: str) -> None:
    model = step(writer)
    x = {"x": np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)}
    before = Reference(ir.to_proto(model)).run(x)
    after = model.graph.outputs[0]
    read_new_states(model, [after])
    for output in model.graph.outputs[1:]:
        assert direct_sources(output, {after, *model.graph.inputs}) == {after}
    found = Reference(ir.to_proto(model)).run(x)
    assert list(found) == list(before) == ["after", "h", "upper"]
    for name, value in before.items():
        np.testing.assert_array_equal(found[name], value)


def test_two_states_that_are_the_same_value_do_not_read_each_other() -> None:
    model = step("one axis more")
    first, h, _ = model.graph.outputs
    copy = ir.node("Identity", [h], name="copy")
    model.graph.append(copy)
    second = model.graph.outputs[1] = copy.outputs[0]
    read_new_states(model, [first, second])
    for state in (first, second):
        assert direct_sources(state, {first, second, *model.graph.inputs}) == {model.graph.inputs[0]}


def test_a_packed_lstm_called_step_by_step_is_the_lstm_over_the_sequence() -> None:
    """As torch exports it: h_n and c_n are [L,B,H], and a layer reads Y, not Y_h."""
    model = lstm(0, initial_state="input").model
    x = np.random.default_rng(1).standard_normal((6, 1, 8)).astype(np.float32)
    zeros = np.zeros((2, 1, 16), np.float32)
    whole = audit(model, data={"x": x, "h_0": zeros, "c_0": zeros}, num_samples=1)
    stepwise = audit(model, data={"x": x[:, None]}, input_shapes={"x": (1, 1, 8)}, num_steps=6, num_samples=1)
    assert stepwise.grid == whole.grid
    for one, two in zip(stepwise.layers, whole.layers, strict=True):
        assert one.state_size == two.state_size
        for own, other in ((one.time_radius, two.time_radius), (one.depth_radius, two.depth_radius)):
            assert (own is None) == (other is None)
            if own is not None and other is not None:
                assert own.mean == pytest.approx(other.mean, abs=1e-5)
