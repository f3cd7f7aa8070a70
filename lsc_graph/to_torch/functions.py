"""ONNX operators as torch functions that onnx2fx lacks, or has another meaning of."""

from __future__ import annotations

import torch
from torch import Tensor


def dft(x: Tensor, length: Tensor | int | None, axis: Tensor | int, inverse: bool, onesided: bool) -> Tensor:
    """DFT: the Fourier transform of one axis, or its inverse; complex numbers are pairs of real ones.

    Args:
        x: [..., 1] of real numbers or [..., 2] of complex ones.
        length: how many of the axis's elements, zeros added where there are fewer; all if None.
        axis: of `x`.
        inverse: the inverse, which is divided by the length.
        onesided: only the half that is not given by symmetry: put out, or where `inverse` put in.
    """
    numbers = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x[..., 0]
    place = int(axis) % x.dim()
    size = None if length is None else int(length)
    if inverse and onesided:
        # What the operator is for: a real signal from the half of its transform.
        real: Tensor = torch.fft.irfft(numbers, size, place)
        return real[..., None]
    if onesided:
        return torch.view_as_real(torch.fft.rfft(numbers, size, place))
    transform = torch.fft.ifft if inverse else torch.fft.fft
    return torch.view_as_real(transform(numbers, size, place))


def lp_normalized(x: Tensor, axis: int, p: int) -> Tensor:
    """LpNormalization: vectors of length one along an axis; those of length zero stay zero."""
    length = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return x / torch.where(length == 0, torch.ones_like(length), length)


def shape_of(x: Tensor, start: int = 0, end: int | None = None) -> Tensor:
    """Shape: sizes of axes, on the device of `x`, where indices into them are."""
    return torch.tensor(x.shape[start:end], dtype=torch.int64, device=x.device)


def size_of(x: Tensor) -> Tensor:
    """Size: how many elements there are, on the device of `x`."""
    return torch.tensor(x.numel(), dtype=torch.int64, device=x.device)
