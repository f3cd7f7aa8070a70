"""`lsc-graph pretrain`"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from lsc_graph.cli.commands import pretrain
from lsc_graph.cli.main import run
from lsc_graph.models import write_zoo
from onnx import numpy_helper

from lsc_graph.pretraining.fit import Progress


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    write_zoo(folder, ["gru", "alif"])
    return folder


def test_the_time_left_follows_from_the_iterations_of_this_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    clock = iter((100.0, 103.0, 106.0))
    monkeypatch.setattr(pretrain.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(
        pretrain,
        "progress",
        lambda: nullcontext(lambda text, fraction: shown.append(f"{fraction:.2f} {text}")),
    )
    with pretrain.fit_progress(50) as say:
        say(Progress(40, {}, 0.25, seconds=999.0))
        say(Progress(41, {}, 0.125, seconds=1002.0))
    assert shown[1:] == [
        "0.80 Iteration 40, 0.250 from target, 30 s at most",
        "0.82 Iteration 41, 0.125 from target, 27 s at most",
    ]


def test_the_time_left_is_that_of_the_iterations_that_the_method_is_given(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fractions: list[float] = []
    monkeypatch.setattr(
        pretrain, "progress", lambda: nullcontext(lambda _, fraction: fractions.append(fraction))
    )

    def stop(*_: object, progress: Callable[[Progress], None], **__: object) -> None:
        progress(Progress(250, {}, 0.25, seconds=1.0))
        raise KeyboardInterrupt

    monkeypatch.setattr("lsc_graph.pretraining.pretrain_file.pretrain_file", stop)
    run(["pretrain", str(zoo / "gru.onnx"), "-o", str(tmp_path / "out.onnx"), "--method", "gradient"])
    assert fractions == [0.0, 0.25]


def test_what_takes_long_between_iterations_is_shown_too(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(pretrain, "progress", lambda: nullcontext(lambda text, _: shown.append(text)))
    assert run(["pretrain", str(zoo / "gru.onnx"), "-o", str(tmp_path / "out.onnx"), "--steps", "8"]) == 0
    kinds = ["Looking at 8 fresh samples", "Iteration 1, ", "Writing the model", "Audit of the written file"]
    first = [next(i for i, text in enumerate(shown) if kind in text) for kind in kinds]
    assert first == sorted(first)
    last = next(text for text in reversed(shown) if "fresh samples" in text)
    assert last.startswith("Iteration ")


def test_one_process_of_a_group_shows_its_progress(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain, "progress", lambda: pytest.fail("another one does"))
    monkeypatch.setattr(
        "lsc_graph.pretraining.pretrain_file.pretrain_file", lambda *_, **__: SimpleNamespace(is_reached=True)
    )
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert run(["pretrain", str(zoo / "gru.onnx"), "-o", str(tmp_path / "out.onnx")]) == 0


def test_a_model_is_written_and_the_radii_shown(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.onnx"
    assert run(["pretrain", str(zoo / "gru.onnx"), "-o", str(output), "--steps", "8"]) == 0
    shown = capsys.readouterr().out
    assert output.exists()
    assert "reached      3 of 3 radii, within 0.02 plus twice the ± shown" in shown
    assert shown.endswith(f"written to {output}\n")
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
        ["--seed", "-1"],
        ["--seed", str(2**64)],
    ],
)
def test_wrong_requests_exit_with_2_and_write_nothing(zoo: Path, tmp_path: Path, options: list[str]) -> None:
    output = tmp_path / "out.onnx"
    assert run(["pretrain", str(zoo / "gru.onnx"), "-o", str(output), "--steps", "8", *options]) == 2
    assert not output.exists()


@pytest.mark.slow
def test_processes_of_torchrun_write_one_file_and_one_report_and_end_with_the_code(
    zoo: Path, tmp_path: Path
) -> None:
    scripts = Path(sys.executable).parent
    values = {}
    too_few = ["--max-iterations", "1", "--tolerance", "0.0001"]
    for processes in (1, 2):
        output = tmp_path / f"{processes}.onnx"
        torchrun = [scripts / "torchrun", "--no-python", "--standalone", "--nproc_per_node", str(processes)]
        options = ["pretrain", zoo / "gru.onnx", "-o", output, "--steps", "8", "--format", "json"]
        command = [*torchrun, scripts / "lsc-graph", *options, *too_few]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1, done.stderr[-2000:]
        assert not json.loads(done.stdout)["is_reached"]
        values[processes] = {t.name: numpy_helper.to_array(t) for t in onnx.load(output).graph.initializer}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.onnx", "2.onnx"]
    for name, value in values[1].items():
        np.testing.assert_allclose(values[2][name], value, atol=2e-6, rtol=1e-5)
