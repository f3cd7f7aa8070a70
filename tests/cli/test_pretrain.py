"""`lsc-graph pretrain`"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lsc_graph.cli.main import run
from lsc_graph.models import write_zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    write_zoo(folder, ["gru", "alif"])
    return folder


def test_a_model_is_written_and_the_radii_shown(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.onnx"
    assert run(["pretrain", str(zoo / "gru.onnx"), "-o", str(output), "--steps", "8"]) == 0
    shown = capsys.readouterr().out
    assert output.exists()
    assert "reached      3 of 3 radii, within 0.02" in shown
    for word in ("target", "before", "after", "written", "layer_1/Y/GRU"):
        assert word in shown


def test_options_and_json(zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--steps", "8", "--target", "sqrt", "--target-depth", "0.4", "--seed", "3", "--format", "json"]
    layers = ["--target-layer", "layer_1:time=0.6", "--freeze", "layer_0.bias"]
    output = str(tmp_path / "out.onnx")
    assert run(["pretrain", str(zoo / "gru.onnx"), "-o", output, *options, *layers]) == 0
    report = json.loads(capsys.readouterr().out)
    targets = {(r["layer"], r["kind"]): r["target"] for r in report["radii"]}
    assert targets[("layer_0", "time")] == pytest.approx(0.5**0.5)
    assert targets[("layer_1", "time")] == 0.6
    assert targets[("layer_1", "depth")] == 0.4
    assert report["seed"] == 3
    assert {"tensor": "layer_0.bias", "reason": "frozen"} in report["left_out"]
    assert all(radius["written"] is not None for radius in report["radii"])


def test_a_radius_that_is_not_reached_is_named_and_the_exit_code_says_so(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["pretrain", str(zoo / "alif.onnx"), "-o", str(tmp_path / "out.onnx"), "--steps", "8"]) == 1
    assert "gradient is cut there" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    "options",
    [
        ["--target", "third"],
        ["--target-layer", "layer_1"],
        ["--target-layer", "layer_1=high"],
        ["--target-layer", "nothing=0.5"],
        ["--train", "nothing"],
        ["--tolerance", "0"],
        ["--resume"],
    ],
)
def test_wrong_requests_exit_with_2_and_write_nothing(zoo: Path, tmp_path: Path, options: list[str]) -> None:
    output = tmp_path / "out.onnx"
    assert run(["pretrain", str(zoo / "gru.onnx"), "-o", str(output), "--steps", "8", *options]) == 2
    assert not output.exists()
