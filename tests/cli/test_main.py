"""Exit codes, where results and errors go, and what importing the command costs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lsc_graph.cli.main import COMMANDS, run
from lsc_graph.models import registry, write_zoo

from lsc_graph import audit_model


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    write_zoo(folder, ["gru", "streaming_gru", "residual_mlp"])
    return folder


def audited(zoo: Path, *options: str, name: str = "gru") -> int:
    return run(["audit", str(zoo / f"{name}.onnx"), "--samples", "1", *options])


def test_an_analysed_model_exits_with_0_and_prints_its_report(
    zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audited(zoo, "--steps", "12") == 0
    captured = capsys.readouterr()
    assert "Verdict: VANISHING" in captured.out
    assert captured.err == ""


def test_a_violated_policy_exits_with_1_and_a_kept_one_with_0(zoo: Path) -> None:
    assert audited(zoo, "--steps", "12", "--fail-on", "vanishing") == 1
    assert audited(zoo, "--steps", "12", "--fail-on", "exploding") == 0


def test_a_policy_is_violated_by_an_inconclusive_verdict(zoo: Path, tmp_path: Path) -> None:
    write_zoo(tmp_path, ["tanh_rnn"])
    single = registry.build("tanh_rnn", num_layers=1)
    (tmp_path / "single.onnx").write_bytes(single.SerializeToString())
    options = ["audit", str(tmp_path / "single.onnx"), "--steps", "1"]
    assert run(options) == 0
    assert run([*options, "--fail-on", "exploding"]) == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--steps", "0"],
        ["--steps", "many"],
        ["--input-shape", "x"],
        ["--input-shape", "x:a,b"],
        ["--input-shape", "nope:1,2"],
        ["--input", "x"],
        ["--input", "nope=1"],
        ["--input", "x=[1,"],
        ["--state", "only"],
        ["--state", "x:nope"],
        ["--fail-on", "sometimes"],
        ["--data", "missing.npz"],
        ["--device", "tpu"],
        ["--nonsense"],
    ],
)
def test_wrong_requests_exit_with_2_and_say_why(
    options: list[str], zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audited(zoo, *options) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.lower().count("error") >= 1


def test_what_cannot_be_analysed_exits_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.onnx").write_text("not a model")
    assert run(["audit", str(tmp_path / "text.onnx")]) == 3
    assert "not an ONNX model" in capsys.readouterr().err
    assert run(["inspect", str(tmp_path / "missing.onnx")]) == 3


def test_an_unexpected_error_exits_with_3_on_one_line(
    zoo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(audit_model, "audit", fail)
    assert audited(zoo) == 3
    assert "unexpected ZeroDivisionError: a bug" in capsys.readouterr().err


def test_an_interrupt_exits_with_130_and_leaves_no_file(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(audit_model, "audit", interrupt)
    assert audited(zoo, "-o", str(tmp_path / "report.txt")) == 130
    assert list(tmp_path.iterdir()) == []


def test_json_goes_to_a_file_whole(zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "report.json"
    assert audited(zoo, "--steps", "4", "--format", "json", "-o", str(target)) == 0
    assert json.loads(target.read_text())["grid"]["num_steps"] == 4
    assert capsys.readouterr().out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert audited(zoo, "--steps", "4", "-o", str(tmp_path / "no" / "such" / "folder.txt")) == 2


def test_given_data_and_declared_states_are_used(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "data.npz", x=np.ones((6, 1, 8), dtype=np.float32))
    options = ["--data", str(tmp_path / "data.npz"), "--steps", "6", "--format", "json"]
    states = ["--state", "h0:h0n", "--state", "h1:h1n"]
    assert audited(zoo, *options, *states, name="streaming_gru") == 0
    document = json.loads(capsys.readouterr().out)
    assert next(v for v in document["inputs"] if v["name"] == "x")["source"] == "given data"
    assert len(document["layers"]) == 2


def test_inspect_and_zoo_list_work(zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(zoo / "streaming_gru.onnx"), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["recurrences"][0]["form"] == "streaming"
    assert run(["zoo", "--list"]) == 0
    assert "bidirectional_lstm" in capsys.readouterr().out
    assert run(["zoo", "no_such_model", "-o", str(tmp_path)]) == 2
    assert run(["zoo", "lstm", "-o", str(tmp_path)]) == 0
    assert (tmp_path / "lstm.onnx").exists()


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_every_help_text_can_be_shown(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--help"]) == 0
    assert "Usage: lsc-graph" in capsys.readouterr().out


@pytest.mark.parametrize("module", ["lsc_graph", "lsc_graph.cli.main", "lsc_graph.cli.commands.audit"])
def test_importing_the_package_and_the_command_is_light(module: str) -> None:
    heavy = ("torch", "onnx", "numpy", "onnxruntime")
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


ENDING = """
import atexit, os, sys, threading, time
from lsc_graph.cli.main import main

class Native:
    def __del__(self):
        os.abort()

native = Native()
atexit.register(print, "handled", end="")
threading.Thread(target=lambda: (time.sleep(0.2), print("joined ", end=""))).start()
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--help"], 0), (["--nonsense"], 2), (["inspect", "no"], 3)]
)
def test_the_process_ends_as_the_interpreter_would_but_tears_nothing_down(
    arguments: list[str], code: int
) -> None:
    done = subprocess.run([sys.executable, "-c", ENDING, *arguments], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout.endswith("joined handled")


@pytest.mark.slow
def test_control_c_ends_the_command_with_its_code_and_leaves_whole_files(zoo: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "fit.ckpt"
    command = [str(Path(sys.executable).with_name("lsc-graph")), "pretrain", str(zoo / "gru.onnx")]
    options = ["-o", str(tmp_path / "out.onnx"), "--checkpoint", str(checkpoint), "--method", "gradient"]
    # Where the tests themselves run in the background, the signal would be ignored from the start.
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, preexec_fn=heeds)
    while process.poll() is None and not checkpoint.exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1].strip() == "interrupted"
    assert process.returncode == 130
    assert [path.name for path in tmp_path.iterdir()] == ["fit.ckpt"]
    assert "state" in torch.load(checkpoint, weights_only=True)
