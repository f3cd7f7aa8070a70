"""Where torch computes, and how exactly: a GPU's shorter single precision is not what ONNX Runtime has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from lsc_graph.errors import UsageError

_SWITCHES: tuple[Any, ...] = (
    torch.backends.cuda.matmul,
    torch.backends.cudnn.conv,  # type: ignore[attr-defined]  # torch replaces the module by one that has it
    torch.backends.cudnn.rnn,
)


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
    """No product in TF32, of three digits, which torch takes for convolutions on CUDA by default."""
    with ExitStack() as after:
        for switch in _SWITCHES:
            after.callback(setattr, switch, "fp32_precision", switch.fp32_precision)
            switch.fp32_precision = "ieee"
        yield
