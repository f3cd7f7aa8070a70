"""Models made by real exporters, each in an environment of its own; tests skip where one cannot be had."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import venv
from functools import cache
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "exporting"
REQUIREMENTS = {
    "torch": ("torch==2.13.0", "onnxscript"),
    "layered_torch": ("torch==2.13.0", "onnxscript"),
    "onnxscript": ("onnxscript", "onnx"),
    "jax": ("jax", "jax2onnx"),
    "layered_jax": ("jax", "jax2onnx", "flax"),
    "keras": ("tensorflow-cpu", "tf2onnx"),
}
MAX_SECONDS = 480


def exported_model(framework: str, name: str) -> Path:
    """The path of a model, all of whose framework's models are made on first use."""
    problem = _make(framework)
    path = _folder(framework) / f"{name}.onnx"
    if problem or not path.exists():
        pytest.skip(f"{name} cannot be exported from {framework}: {problem or 'the exporter left it out'}")
    return path


def _folder(framework: str) -> Path:
    """A folder for what this very script makes."""
    script = (SCRIPTS / f"{framework}_models.py").read_bytes()
    digest = hashlib.sha256(script + repr(REQUIREMENTS[framework]).encode()).hexdigest()[:12]
    given = os.environ.get("LSC_GRAPH_REAL_MODELS_DIR")
    root = Path(given) if given else Path(tempfile.gettempdir()) / "lsc-graph-real-models"
    return root / f"exported-{framework}-{digest}"


@cache
def _make(framework: str) -> str | None:
    """Install the exporter and run the script; returns what went wrong, if anything did."""
    folder = _folder(framework)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        outcome = folder / "outcome"
        if not outcome.exists():
            outcome.write_text(_install_and_run(framework, folder))
        return outcome.read_text() or None


def _install_and_run(framework: str, folder: Path) -> str:
    with tempfile.TemporaryDirectory() as place:
        if framework in ("torch", "layered_torch", "onnxscript") and _has("onnxscript"):
            python = sys.executable
        else:
            venv.create(place, with_pip=True)
            python = str(Path(place) / "bin" / "python")
            problem = _run(python, "-m", "pip", "install", "-q", *REQUIREMENTS[framework])
            if problem:
                return problem
        return _run(python, str(SCRIPTS / f"{framework}_models.py"), str(folder))


def _has(module: str) -> bool:
    return not _run(sys.executable, "-c", f"import {module}")


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MAX_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"{command[1]} took more than {MAX_SECONDS} s"
    return (done.stderr.strip().splitlines() or ["failed"])[-1] if done.returncode else ""
