"""Models of real exporters, in all five forms, are pre-trained and keep everything but their weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx
import pytest
import torch
from exported_models import exported_model
from real_models import real_model, real_source

from lsc_graph.pretrain_results import PretrainReport
from lsc_graph.pretraining.pretrain_file import pretrain_file
from lsc_graph.writeback.difference import differences
from lsc_graph.writeback.weights import PROVENANCE

VALUES = ("raw_data", "float_data")
FORMS = {
    "fused": ("torch", "gru_2.legacy"),
    "scan": ("torch", "scan.dynamo"),
    "loop of torch": ("torch", "list.script"),
    "loop of JAX": ("jax", "lstm.jax"),
    "loop of Keras": ("keras", "custom.keras"),
    "unrolled": ("torch", "rnn_3.dynamo"),
}


def assert_only_weights_differ(before: Path, after: Path) -> None:
    old, new = onnx.load(before), onnx.load(after)
    (note,) = [entry for entry in new.metadata_props if entry.key == PROVENANCE]
    new.metadata_props.remove(note)
    changed = differences(old, new)
    assert changed
    assert all(path.endswith(VALUES) for path in changed), changed


def assert_reached(report: PretrainReport) -> None:
    """By an audit of the written file with fresh data."""
    for change in report.radii:
        assert change.written is not None
        assert abs(change.written.mean - change.target) <= 0.02 + 3 * change.written.std_error, change


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_model_of_an_exporter_is_at_its_target_and_otherwise_the_same_file(
    form: str, tmp_path: Path
) -> None:
    path, output = exported_model(*FORMS[form]), tmp_path / "out.onnx"
    report = pretrain_file(path, output, num_steps=12)
    assert report.is_reached
    assert_reached(report)
    assert_only_weights_differ(path, output)


@pytest.mark.slow
def test_silero_is_pre_trained_and_runs_in_its_own_package(tmp_path: Path) -> None:
    """A streaming model with its weights inside the branches of an If."""
    path, output = real_model("silero_vad.onnx"), tmp_path / "silero.onnx"
    shapes = {"input": (1, 576)}
    report = pretrain_file(
        path, output, num_steps=8, target="one", inputs={"sr": "16000"}, input_shapes=shapes
    )
    assert report.is_reached
    assert_reached(report)
    assert_only_weights_differ(path, output)
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
