"""No file is written over one that is read, or over another that is written."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from lsc_graph.models.registry import build

from lsc_graph.errors import UsageError
from lsc_graph.writeback.apart import check_apart


@pytest.fixture(name="model")
def _model(tmp_path: Path) -> Path:
    path = tmp_path / "gru.onnx"
    onnx.save(build("gru"), path, save_as_external_data=True, location="gru.bin", size_threshold=0)
    return path


@pytest.mark.parametrize("option", ["--output", "--save-weights", "--checkpoint"])
def test_what_is_read_is_not_written_over(model: Path, option: str) -> None:
    folder = model.parent
    with pytest.raises(UsageError, match="a data file of the model"):
        check_apart({"the model": model}, {option: folder / "gru.bin"})
    with pytest.raises(UsageError, match=f"{option} would be written over --data"):
        check_apart({"the model": model, "--data": folder / "x.npz"}, {option: folder / "." / "x.npz"})


@pytest.mark.parametrize("option", ["--save-weights", "--checkpoint"])
def test_the_model_is_not_written_over_by_what_is_no_model(model: Path, option: str) -> None:
    with pytest.raises(UsageError, match=f"{option} would be written over the model"):
        check_apart({"the model": model}, {"--output": model.parent / "out.onnx", option: model})


def test_two_results_are_two_files(model: Path) -> None:
    folder = model.parent
    with pytest.raises(UsageError, match="--save-weights would be written over --output"):
        check_apart({}, {"--output": folder / "out", "--save-weights": folder / "out"})


def test_what_is_apart_or_no_file_passes(model: Path) -> None:
    folder = model.parent
    check_apart(
        {"the model": model, "--data": {"x": None}},
        {"--output": model, "--save-weights": folder / "w", "--checkpoint": None},
    )
