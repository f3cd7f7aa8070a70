"""Copies of a trained weight, as constant folding leaves them, get its new values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from lsc_graph.models.gru import gru
from onnx import numpy_helper

from lsc_graph.audit_model import inspect
from lsc_graph.errors import VerificationError
from lsc_graph.pretraining import job as module
from lsc_graph.pretraining.pretrain_file import pretrain_file
from lsc_graph.results import Form

STEPS = 6


def with_a_copy_for_each_step() -> onnx.ModelProto:
    """An unrolled GRU in which every step has recurrent weights of its own, all the same."""
    proto = gru(0, form=Form.UNROLLED, num_steps=STEPS, num_layers=1).model
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            if name == "layer_0.weight_hh":
                node.input[index] = f"{node.name}.weight_hh"
                copy = numpy_helper.from_array(stored[name], node.input[index])
                proto.graph.initializer.append(copy)
    return proto


def stored(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def test_all_copies_are_trained_as_one_and_stay_equal(tmp_path: Path) -> None:
    source, output = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(with_a_copy_for_each_step(), source)
    report = pretrain_file(source, output)
    assert report.is_reached
    before, after = stored(source), stored(output)
    copies = [name for name in after if name.endswith(".weight_hh") and "step" in name]
    assert len(copies) == STEPS
    assert set(copies) <= set(report.trained)
    for name in copies:
        assert not np.array_equal(after[name], before[name])
        np.testing.assert_array_equal(after[name], after[copies[0]])
    (own,) = inspect(output).recurrences
    assert own.num_steps == STEPS


def test_a_file_whose_copies_were_forgotten_does_not_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(with_a_copy_for_each_step(), tmp_path / "in.onnx")
    monkeypatch.setattr(module, "find_copies", lambda *arguments: {})
    with pytest.raises(VerificationError, match="does not compute what was fitted"):
        pretrain_file(tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_equal_weights_that_the_model_computes_with_are_parameters_of_their_own(tmp_path: Path) -> None:
    """Two layers that start from the same numbers need not stay the same."""
    source, output = tmp_path / "in.onnx", tmp_path / "out.onnx"
    proto = gru(0, num_layers=3).model
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    tensors["layer_2.weight_hh"].raw_data = tensors["layer_1.weight_hh"].raw_data
    onnx.save(proto, source)
    pretrain_file(source, output, num_steps=STEPS)
    after = stored(output)
    assert not np.array_equal(after["layer_1.weight_hh"], after["layer_2.weight_hh"])
