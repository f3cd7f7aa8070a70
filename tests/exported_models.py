"""Models made by real exporters, each with packages of its own; tests skip where these cannot be had."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "exporting"
# Packages beside those that are here, and whose models they make.
REQUIREMENTS = {
    ("torch", "layered_torch", "onnxscript"): ("onnxscript", "onnx"),
    ("jax", "layered_jax"): ("jax", "jax2onnx", "flax"),
    ("keras",): ("tensorflow-cpu", "tf2onnx"),
}
MAX_SECONDS = 480


def exported_model(framework: str, name: str) -> Path:
    """The path of a model; all of those made with the same packages are made on first use."""
    frameworks = next(own for own in REQUIREMENTS if framework in own)
    _make(frameworks)
    folder = _folder(framework)
    path = folder / f"{name}.onnx"
    problem = (folder / "outcome").read_text()
    if problem or not path.exists():
        pytest.skip(f"{name} cannot be exported from {framework}: {problem or 'the exporter left it out'}")
    return path


def _root() -> Path:
    given = os.environ.get("LSC_GRAPH_REAL_MODELS_DIR")
    return Path(given) if given else Path(tempfile.gettempdir()) / "lsc-graph-real-models"


def _folder(framework: str) -> Path:
    """A folder for what this very script makes with these packages."""
    script = (SCRIPTS / f"{framework}_models.py").read_bytes()
    packages = next(own for names, own in REQUIREMENTS.items() if framework in names)
    made_with = repr((packages, version("torch")))  # torch is what is here
    digest = hashlib.sha256(script + made_with.encode()).hexdigest()[:12]
    return _root() / f"exported-{framework}-{digest}"


@cache
def _make(frameworks: tuple[str, ...]) -> None:
    """Install the exporter and run the scripts that have not run; folders say what went wrong, if it did."""
    _root().mkdir(parents=True, exist_ok=True)
    with (_root() / f"exported-{frameworks[0]}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [own for own in frameworks if not (_folder(own) / "outcome").exists()]
        if not missing:
            return
        with tempfile.TemporaryDirectory() as place:
            problem = _install(place, REQUIREMENTS[frameworks])
            for framework in missing:
                folder = _folder(framework)
                folder.mkdir(exist_ok=True)
                script = str(SCRIPTS / f"{framework}_models.py")
                outcome = problem or _run(script, str(folder), packages=place)
                (folder / "outcome").write_text(outcome)


def _install(place: str, packages: tuple[str, ...]) -> str:
    """Beside what is here, which gives way to it: torch takes long to install."""
    return _run("-m", "pip", "install", "-q", "--no-compile", "--target", place, *packages)


def _run(*arguments: str, packages: str | None = None) -> str:
    """What went wrong, if anything did."""
    command = (sys.executable, *arguments)
    environment = os.environ | ({"PYTHONPATH": packages} if packages else {})
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=MAX_SECONDS, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return f"{command[1]} took more than {MAX_SECONDS} s"
    return (done.stderr.strip().splitlines() or ["failed"])[-1] if done.returncode else ""
