"""Padded steps leave a state as it is: the report says how many, and what the others' radius is."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from lsc_graph.models import registry
from onnx import TensorProto, helper

from lsc_graph.audit_model import audit

T, LENGTH = 8, 5
X = np.random.default_rng(0).standard_normal((T, 2, 8)).astype(np.float32)


def with_lengths() -> onnx.ModelProto:
    """A tanh RNN of one layer whose sequence lengths are an input."""
    model = registry.build("tanh_rnn", num_layers=1)
    (node,) = [node for node in model.graph.node if node.op_type == "RNN"]
    while len(node.input) < 5:
        node.input.append("")
    node.input[4] = "lengths"
    model.graph.input.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]))
    return model


def test_the_radius_without_padded_steps_is_that_of_the_sequence_without_padding() -> None:
    lengths = np.full(2, LENGTH, np.int32)
    padded = audit(with_lengths(), data={"x": X, "lengths": lengths}, num_samples=1)
    bare = audit(registry.build("tanh_rnn", num_layers=1), data={"x": X[:LENGTH]}, num_samples=1)
    (words,) = [warning for warning in padded.warnings if "stays exactly as it is" in warning]
    held, points, others = re.findall(r"at (\d+) of (\d+) points .* is (\d\.\d+)", words)[0]
    assert (int(held), int(points)) == (2 * (T - LENGTH), 2 * (T - 1))
    assert bare.layers[0].time_radius is not None
    assert float(others) == pytest.approx(bare.layers[0].time_radius.mean, abs=6e-4)
    assert not any("stays exactly" in warning for warning in bare.warnings)


def test_a_layer_that_never_changes_its_state_is_not_said_to_be_padded() -> None:
    held = audit(registry.build("gru", update_bias=200.0), num_steps=T, num_samples=1)
    assert held.layers[0].time_radius is not None
    assert held.layers[0].time_radius.mean == pytest.approx(1.0, abs=1e-6)
    assert not any("stays exactly" in warning for warning in held.warnings)
