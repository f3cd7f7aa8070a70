"""`lsc-graph paths`"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from lsc_graph.cli.main import run
from lsc_graph.models import write_zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    write_zoo(folder, ["gru", "streaming_gru", "residual_mlp"])
    return folder


@pytest.mark.parametrize("name", ["gru", "streaming_gru"])
def test_a_million_steps_as_json(zoo: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(zoo / f"{name}.onnx")
    options = ["--from", "input:x", "--to", "output:y@every", "--exact", "--format", "json"]
    assert run(["paths", model, "--steps", "1000000", *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["total"]["num_gradient_paths"] == str(math.comb(10**6 + 1, 2))
    assert report["sources"] == [{"layer": "input:x", "time": 0}]


def test_the_text_names_states_and_count(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["paths", str(zoo / "residual_mlp.onnx")]) == 0
    out = capsys.readouterr().out
    assert "layer_0@0" in out
    assert "1 step(s)" in out


@pytest.mark.parametrize("options", [["--from", "nope"], ["--to", "layer_0@99"], ["--steps", "0"]])
def test_wrong_requests_exit_with_2(zoo: Path, options: list[str]) -> None:
    assert run(["paths", str(zoo / "gru.onnx"), *options]) == 2


def test_a_model_of_fixed_length_keeps_its_option_for_shapes(
    zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(zoo / "gru.onnx")
    assert run(["paths", model, "--input-shape", "x:7,1,8", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_steps"] == 7
