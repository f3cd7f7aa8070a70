"""Written models differ from what they were made from in the bytes of trained tensors alone."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from lsc_graph.models.registry import build

from lsc_graph.errors import UsageError, VerificationError
from lsc_graph.model_file.provenance import PROVENANCE
from lsc_graph.pretrain_results import Radius, RadiusChange
from lsc_graph.pretraining import pretrain_file as module
from lsc_graph.pretraining.pretrain_file import pretrain_file
from lsc_graph.pretraining.pretrain_model import pretrain
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


def test_data_of_few_samples_is_enough(model: Path, tmp_path: Path) -> None:
    data = {"x": np.random.default_rng(0).standard_normal((3, 8, 1, 8)).astype(np.float32)}
    report = pretrain_file(model, tmp_path / "out.onnx", num_steps=8, data=data)
    assert (tmp_path / "out.onnx").exists()
    assert {c.written.num_points for c in report.radii if c.written is not None} == {3 * 7, 3 * 8}


def claimed(mean: float) -> RadiusChange:
    radius = Radius(mean, 0.001, 800)
    return RadiusChange(
        "layer_0", "cell", "layer_0", "time", "spectral radius", 0.5, radius, radius, True, None
    )


@pytest.mark.parametrize(
    ("found", "num_audits", "is_reached"),
    [
        ([0.52], 1, True),
        ([0.56, 0.51], 2, True),
        ([0.56, 0.56, 0.55], 3, False),
        ([0.90, 0.51], 2, True),  # so far off that few points may be the reason
    ],
)
def test_what_an_audit_contradicts_is_looked_at_closer_and_then_not_claimed(
    model: Path, monkeypatch: pytest.MonkeyPatch, found: list[float], num_audits: int, is_reached: bool
) -> None:
    asked: list[int] = []

    def audit(path: Path, *, num_samples: int, **_: object) -> SimpleNamespace:
        mean = found[len(asked)]
        asked.append(num_samples)
        facts = SimpleNamespace(mean=mean, std_error=0.01, num_points=30 * num_samples)
        return SimpleNamespace(layers=[SimpleNamespace(id="layer_0", time_radius=facts, depth_edges=())])

    monkeypatch.setattr(module, "audit", audit)
    report = replace(
        pretrain(model, num_steps=8, max_iterations=0).report, radii=(claimed(0.51),), is_reached=True
    )
    audited = module.audited(model, report, {})
    assert (len(asked), audited.is_reached) == (num_audits, is_reached)
    assert asked == sorted(set(asked))
    assert (audited.radii[0].reason is None) is is_reached
    assert is_reached or "0.550 (± 0.010) at 1920 others" in str(audited.radii[0].reason)


def test_a_radius_that_is_no_number_is_not_what_was_fitted(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = SimpleNamespace(mean=math.nan, std_error=0.01, num_points=30)
    layers = [SimpleNamespace(id="layer_0", time_radius=facts, depth_edges=())]
    monkeypatch.setattr(module, "audit", lambda *_, **__: SimpleNamespace(layers=layers))
    report = replace(pretrain(model, num_steps=8, max_iterations=0).report, radii=(claimed(0.51),))
    with pytest.raises(VerificationError, match="not the one that was fitted"):
        module.audited(model, report, {})


def test_a_fit_is_kept_until_its_file_is_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, checkpoint = tmp_path / "out.onnx", tmp_path / "fit.ckpt"
    options = {"num_steps": 8, "tolerance": 0.001, "max_iterations": 3, "checkpoint": checkpoint}

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
