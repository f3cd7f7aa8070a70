"""What the host hands to a device: it does not wait until the device has come to it."""

from __future__ import annotations

import torch
from torch import Tensor


def handed(value: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of the host on a device, in a type of its own or another.

    CUDA copies memory that may be swapped out only once all work before is done; what is pinned, it copies
    in its turn.
    """
    value = value.to(dtype or value.dtype)
    if device.type == "cuda" and value.device.type == "cpu":
        value = value.pin_memory()
    return value.to(device, non_blocking=True)
