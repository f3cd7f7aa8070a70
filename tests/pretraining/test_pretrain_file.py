"""Written models differ from what they were made from in the bytes of trained tensors alone."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from lsc_graph.models.registry import build

from lsc_graph.errors import UsageError, VerificationError
from lsc_graph.model_file.provenance import PROVENANCE
from lsc_graph.pretraining import pretrain_file as module
from lsc_graph.pretraining.pretrain_file import pretrain_file
from lsc_graph.writeback.difference import differences


@pytest.fixture(name="model")
def _model(tmp_path: Path) -> Path:
    path = tmp_path / "gru.onnx"
    onnx.save(build("gru"), path)
    return path


def test_only_values_change_and_the_file_says_where_they_come_from(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    report = pretrain_file(model, output, num_steps=8)
    assert report.is_reached
    before, after = onnx.load(model), onnx.load(output)
    (note,) = [entry for entry in after.metadata_props if entry.key == PROVENANCE]
    assert json.loads(note.value)["data_digest"] == report.data_digest
    after.metadata_props.remove(note)
    changed = list(differences(before, after))
    assert changed
    assert all("initializer" in path and path.endswith(("raw_data", "float_data")) for path in changed)
    for change in report.radii:
        assert change.written is not None
        assert abs(change.written.mean - change.target) <= 0.02 + 4 * change.written.std_error


def test_a_file_that_is_not_what_was_fitted_does_not_appear(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = module.pretrain

    def careless(*arguments: object, **options: object) -> object:
        found = honest(*arguments, **options)
        for array in found.values.values():
            array *= 1.5
        return found

    monkeypatch.setattr(module, "pretrain", careless)
    with pytest.raises(VerificationError, match="not the one that was fitted"):
        pretrain_file(model, tmp_path / "out.onnx", num_steps=8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gru.onnx"]


def test_trained_tensors_are_saved_beside_the_model(model: Path, tmp_path: Path) -> None:
    from onnx import numpy_helper
    from safetensors.numpy import load_file

    output, weights = tmp_path / "out.onnx", tmp_path / "w.safetensors"
    report = pretrain_file(model, output, num_steps=8, save_weights=weights)
    saved = load_file(weights)
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(output).graph.initializer}
    assert sorted(saved) == sorted(report.trained)
    for name, array in saved.items():
        assert (array == stored[name]).all()


@pytest.mark.parametrize("options", [{"output": "no/out.onnx"}, {"save_weights": "no/w.safetensors"}, {}])
def test_what_cannot_be_written_is_said_before_anything_is_trained(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str]
) -> None:
    monkeypatch.setattr(module, "pretrain", lambda *arguments, **options: pytest.fail("it was trained"))
    paths = {"output": model if not options else tmp_path / "out.onnx"}
    paths |= {name: tmp_path / path for name, path in options.items()}
    with pytest.raises(UsageError):
        pretrain_file(model, paths.pop("output"), num_steps=8, **paths)


def test_a_fit_is_kept_until_its_file_is_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, checkpoint = tmp_path / "out.onnx", tmp_path / "fit.ckpt"
    options = {"num_steps": 8, "tolerance": 0.005, "max_iterations": 3, "checkpoint": checkpoint}

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "audited", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pretrain_file(model, output, **options)
    assert checkpoint.exists()
    assert not output.exists()
    report = pretrain_file(model, output, resume=True, **options)
    assert report.iterations == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gru.onnx", "out.onnx"]


@pytest.mark.parametrize("option", ["save_weights", "checkpoint"])
def test_the_model_is_not_replaced_by_what_is_no_model(model: Path, tmp_path: Path, option: str) -> None:
    before = model.read_bytes()
    with pytest.raises(UsageError, match="would be written over the model"):
        pretrain_file(model, tmp_path / "out.onnx", num_steps=8, **{option: model})
    assert model.read_bytes() == before


def test_the_model_itself_is_overwritten_only_if_asked(model: Path) -> None:
    before = model.read_bytes()
    with pytest.raises(UsageError, match="the input itself"):
        pretrain_file(model, model, num_steps=8)
    assert model.read_bytes() == before
    pretrain_file(model, model, in_place=True, num_steps=8)
    assert model.read_bytes() != before


def test_an_interruption_leaves_no_file(model: Path, tmp_path: Path) -> None:
    def interrupt(progress: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain_file(model, tmp_path / "out.onnx", num_steps=8, progress=interrupt)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gru.onnx"]


def test_a_radius_that_the_written_file_does_not_show_is_an_error(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_as_radius", lambda found: None)
    with pytest.raises(VerificationError, match="was not measured"):
        pretrain_file(model, tmp_path / "out.onnx", num_steps=4, max_iterations=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gru.onnx"]
