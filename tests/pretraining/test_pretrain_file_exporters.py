"""Models of real exporters, in all five forms, are pre-trained and keep everything but their weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exported_models import exported_model
from google.protobuf.message import Message
from onnx import numpy_helper
from real_models import real_model, real_source
from torch import Tensor

import lsc_graph
from lsc_graph.model_file.provenance import PROVENANCE
from lsc_graph.pretrain_results import PretrainReport
from lsc_graph.pretraining.pretrain_file import pretrain_file

FORMS = {
    "fused": ("torch", "gru_2.legacy"),
    "scan": ("torch", "scan.dynamo"),
    "loop of torch": ("torch", "list.script"),
    "loop of JAX": ("jax", "lstm.jax"),
    "loop of Keras": ("keras", "custom.keras"),
    "unrolled": ("torch", "rnn_3.dynamo"),
}
T = 12


class Step(torch.nn.Module):
    """One step of two cells, which the caller feeds their states."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = torch.nn.GRUCell(8, 16), torch.nn.RNNCell(16, 12)

    def forward(self, x: Tensor, h1: Tensor, h2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h1 = self.lower(x, h1)
        h2 = self.upper(h1, h2)
        return 2 * h2, h1, h2


def streaming_model(path: Path) -> Path:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    example = tuple(torch.zeros(1, size) for size in (8, 16, 12))
    names = {"input_names": ["x", "h1", "h2"], "output_names": ["y", "h1_out", "h2_out"]}
    torch.onnx.export(Step().eval(), example, path, dynamo=True, verbose=False, external_data=False, **names)
    return path


def stripped(message: Message) -> dict[str, bytes]:
    """The values of all float tensors of a message, which are taken out of it, by the tensors' names."""
    found: dict[str, bytes] = {}
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in [value] if isinstance(value, Message) else list(value):
            if isinstance(part, onnx.TensorProto) and part.data_type == onnx.TensorProto.FLOAT:
                found[part.name] = numpy_helper.to_array(part).tobytes()
                part.ClearField("raw_data")
                part.ClearField("float_data")
            else:
                found |= stripped(part)
    return found


def assert_only_weights_differ(before: Path, after: Path, trained: Sequence[str]) -> None:
    """Float tensors that the report names as trained, and one note."""
    old, new = onnx.load(before), onnx.load(after)
    (note,) = [entry for entry in new.metadata_props if entry.key == PROVENANCE]
    new.metadata_props.remove(note)
    was, came = stripped(old), stripped(new)
    assert old.SerializeToString(deterministic=True) == new.SerializeToString(deterministic=True)
    changed = {name for name in came if came[name] != was[name]}
    assert changed
    # A tensor within a Constant has a name of its own, with which the constant's name may end.
    assert all(any(name.endswith(own) for name in trained) for own in changed)


def assert_reached(report: PretrainReport) -> None:
    """By an audit of the written file with fresh data."""
    for change in report.radii:
        assert change.written is not None
        assert abs(change.written.mean - change.target) <= 0.02 + 2 * change.written.std_error, change


def assert_torch_and_onnx_runtime_agree(path: Path) -> None:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    draw = np.random.default_rng(1).standard_normal
    sizes = {
        value.name: [size if isinstance(size, int) else T for size in value.shape]
        for value in session.get_inputs()
    }
    feed = {name: draw(shape).astype(np.float32) for name, shape in sizes.items()}
    with torch.no_grad():
        found = lsc_graph.to_torch(path)(*map(torch.from_numpy, feed.values()))
    for ours, theirs in zip(
        found if isinstance(found, tuple) else (found,), session.run(None, feed), strict=True
    ):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("form", [*FORMS, "streaming"])
def test_a_model_of_an_exporter_is_at_its_target_and_otherwise_the_same_file(
    form: str, tmp_path: Path
) -> None:
    path = exported_model(*FORMS[form]) if form in FORMS else streaming_model(tmp_path / "in.onnx")
    output = tmp_path / "out.onnx"
    report = pretrain_file(path, output, num_steps=T, target="one")
    assert report.is_reached
    assert_reached(report)
    assert any(abs(change.before.mean - change.target) > 0.1 for change in report.radii)
    assert_only_weights_differ(path, output, report.trained)
    assert_torch_and_onnx_runtime_agree(output)


@pytest.mark.slow
def test_silero_is_pre_trained_and_runs_in_its_own_package(tmp_path: Path) -> None:
    """A streaming model with its weights inside the branches of an If."""
    path, output = real_model("silero_vad.onnx"), tmp_path / "silero.onnx"
    shapes = {"input": (1, 576)}
    report = pretrain_file(path, output, num_steps=16, inputs={"sr": "16000"}, input_shapes=shapes)
    assert report.is_reached
    assert_reached(report)
    assert all(abs(change.before.mean - change.target) > 0.4 for change in report.radii)
    assert_only_weights_differ(path, output, report.trained)
    spec = importlib.util.spec_from_file_location("silero_utils", real_source("silero-vad", "utils_vad.py"))
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    sound = 0.1 * torch.randn(1, 4 * 512, generator=torch.Generator().manual_seed(0))
    speech, ours = (
        package.OnnxWrapper(str(file), force_onnx_cpu=True).audio_forward(sound, 16000)
        for file in (path, output)
    )
    assert ours.shape == speech.shape == (1, 4)
    assert ((ours >= 0) & (ours <= 1)).all()
    assert not torch.equal(ours, speech)
