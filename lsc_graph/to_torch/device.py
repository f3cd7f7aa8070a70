"""Where torch computes, and how exactly: a GPU's shorter single precision is not what ONNX Runtime has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from lsc_graph.errors import UsageError


def device_of(wanted: str) -> str:
    """The name that torch has for a device.

    Args:
        wanted: "auto" (CUDA where torch sees it), "cpu" or "cuda".

    Raises:
        UsageError: there is no such device.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise UsageError("There is no such device", got=wanted, expected="auto, cpu or cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda was asked for, but torch sees no CUDA device", do="use --device cpu")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


@contextmanager
def whole_single_precision() -> Iterator[None]:
    """No product in TF32, of three digits, which torch takes for convolutions on CUDA by default.

    What was set before is set again afterwards, by torch's older names where it was set by these: torch
    refuses to read them when they disagree with its newer ones.
    """
    with ExitStack() as after:
        for restore in (_whole_convolutions(), _whole_products()):
            after.callback(restore)
        yield


def _whole_convolutions() -> Callable[[], None]:
    """Switches cuDNN over, and returns how to switch it back."""
    cudnn: Any = torch.backends.cudnn
    parts = (cudnn.conv, cudnn.rnn)
    try:
        before = cudnn.allow_tf32
    except RuntimeError:
        return _whole(*parts)
    backends: Any = torch.backends
    if any(part.fp32_precision != backends.fp32_precision for part in parts):
        cudnn.allow_tf32 = False
        return lambda: setattr(cudnn, "allow_tf32", before)
    return _whole(*parts)


def _whole_products() -> Callable[[], None]:
    """As `_whole_convolutions`, for matrix products on any device."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        return _whole(torch.backends.cuda.matmul)
    torch.set_float32_matmul_precision("highest")
    return lambda: torch.set_float32_matmul_precision(before)


def _whole(*switches: Any) -> Callable[[], None]:
    before = [switch.fp32_precision for switch in switches]
    for switch in switches:
        switch.fp32_precision = "ieee"

    def restore() -> None:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value

    return restore
