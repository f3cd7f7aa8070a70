"""Thresholds in torch: exact values, and the derivative of a surrogate."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_COMPARE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
}


def spike(
    value: Tensor, threshold: Tensor, kind: str, surrogate: str, dampening: float, sharpness: float
) -> Tensor:
    """1 where the comparison `kind` holds, else 0; its derivative is the surrogate's.

    The smooth part is a primitive of the surrogate derivative, of which only the derivative remains, so that
    every transform of torch.func applies.
    """
    hard = _COMPARE[kind](value, threshold).to(value.dtype)
    excess = value - threshold if kind.startswith("Greater") else threshold - value
    smooth = dampening * PRIMITIVES[surrogate](excess, sharpness)
    return hard + (smooth - smooth.detach())


def sign(value: Tensor, surrogate: str, dampening: float, sharpness: float) -> Tensor:
    """The sign, with twice the surrogate's derivative: it steps by 2."""
    smooth = 2 * dampening * PRIMITIVES[surrogate](value, sharpness)
    return torch.sign(value) + (smooth - smooth.detach())


def _fast_sigmoid(u: Tensor, sharpness: float) -> Tensor:
    return u / (1 + sharpness * u.abs())


def _triangle(u: Tensor, sharpness: float) -> Tensor:
    inside = u.clamp(-1 / sharpness, 1 / sharpness)
    return inside - sharpness * inside * inside.abs() / 2


def _exponential(u: Tensor, sharpness: float) -> Tensor:
    zero = torch.zeros_like(u)
    right, left = torch.where(u >= 0, u, zero), torch.where(u >= 0, zero, u)
    return torch.where(u >= 0, -torch.expm1(-sharpness * right), torch.expm1(sharpness * left)) / sharpness


PRIMITIVES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "fast-sigmoid": _fast_sigmoid,
    "triangle": _triangle,
    "exponential": _exponential,
}
"""For every surrogate, u [any shape] and the sharpness -> a primitive of its derivative at dampening 1."""
