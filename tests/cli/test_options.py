"""What several commands are told is told to all of them in the same words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from lsc_graph.cli.main import run
from unrolled_models import Unroller, at, stacked

T, D, H = 6, 3, 4
COMMANDS = {
    "audit": ["--samples", "1", "--format", "json"],
    "inspect": ["--format", "json"],
    "paths": ["--format", "json"],
    "unroll": ["-o", "OUT.json"],
    "reroll": ["-o", "OUT.onnx", "--format", "json"],
    "pretrain": ["-o", "OUT.onnx", "--format", "json", "--max-iterations", "1"],
}


@pytest.fixture
def written_out(tmp_path: Path) -> tuple[Path, str]:
    """Steps from zeros that hand on h and read tanh(h), which is put out too; the name of one."""
    net = Unroller()
    x, u = net.op("MatMul", net.input("x", T, 1, D), net.weight(D, H)), net.weight(H, H)
    h, read, rows = "", "", list[str]()
    for time in range(T):
        drive = at(net, x, time)
        new = net.op("Sin", net.op("Add", net.op("MatMul", read, u), drive) if read else drive)
        h = net.op("Add", h, new) if h else new
        read = net.op("Tanh", h)
        rows.append(read)
    net.output(stacked(net, rows))
    onnx.save(net.model(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx", rows[2]


def told(document: dict[str, Any]) -> list[str]:
    """What a report says of choices."""
    found = [text for own in document.get("recurrences", ()) for text in own["chosen"]]
    notes = [*document.get("notes", ()), *document.get("warnings", ())]
    return found + [text for text in notes if "as chosen" in text]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_what_is_no_state(
    command: str, written_out: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, name = written_out
    options = [option.replace("OUT", str(tmp_path / "out")) for option in COMMANDS[command]]
    assert run([command, str(path), *options, "--state", f"{name}:none"]) in (0, 1)
    printed = capsys.readouterr().out
    if command == "unroll":
        assert "nodes" in printed
    else:
        assert [text for text in told(json.loads(printed)) if text.endswith(f"{name}:none")]
    assert run([command, str(path), *options, "--state", "x:none"]) == 2
    assert "--state" in capsys.readouterr().err
