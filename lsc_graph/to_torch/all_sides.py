"""Selections, such as maxima, as if their derivative passed to all that they choose from.

What a value depends on is then seen at every point, whichever side is chosen there. Values stay what they
are; the derivatives only tell who is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# Unlike each other and unlike 1, so that sides which are computed from one value do not cancel.
_FACTORS = (0.7548, 0.5698, 0.8191)


class AllSides(TorchFunctionMode):
    """While it is entered, selections pass derivatives to all sides; `has_selected` says that there are some.

    A `Where` does so if what decides is computed from values that gradients are taken of. A mask that is
    given instead, as that of causal attention, hides at every point what it hides at one. The largest of
    many stays as it is: taken off in a softmax it cancels, but for rounding.
    """

    def __init__(self) -> None:
        super().__init__()
        self.has_selected = False
        # Of what follows from derivatives but carries none: kept, for their ids to stay theirs.
        self._deciding: dict[int, Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if not any(self._follows(value) for value in given):
            return found
        sides = self._sides(func, args, kwargs)
        self._mark(found)
        if not sides:
            return found
        self.has_selected = True
        return _passed(found, sides)

    def _sides(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> list[Tensor]:
        """What a selection chooses from, in the shape of what it gives; nothing for other functions."""
        if func is torch.where:
            return list(args[1:3]) if len(args) == 3 and self._follows(args[0]) else []
        if func in _SELECTIONS:
            return [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        return []

    def _mark(self, found: Any) -> None:
        values = found if isinstance(found, tuple) else (found,)
        for value in values:
            if isinstance(value, Tensor) and not _has_gradient(value):
                self._deciding[id(value)] = value

    def _follows(self, value: Tensor) -> bool:
        return id(value) in self._deciding or _has_gradient(value)


_SELECTIONS = frozenset(
    (
        *(torch.maximum, torch.minimum, torch.relu, functional.relu, functional.relu6, torch.abs),
        *(
            torch.clamp,
            functional.hardtanh,
            functional.hardsigmoid,
            functional.hardswish,
            functional.threshold,
        ),
    )
)


def _has_gradient(value: Tensor) -> bool:
    """Whether derivatives pass through a value, under whichever transforms of torch.func."""
    while not value.requires_grad:
        if not torch._C._functorch.is_functorch_wrapped_tensor(value):
            return False
        value = torch._C._functorch.get_unwrapped(value)
    return True


class _Passed(torch.autograd.Function):
    """One value, with the derivative of another."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, other: Tensor) -> Tensor:
        """The value."""
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        """All to the other."""
        return None, gradient


def _passed(value: Tensor, chosen_from: Sequence[Tensor]) -> Tensor:
    if not value.is_floating_point():
        return value
    pairs = zip(_FACTORS, chosen_from, strict=False)
    parts = [factor * side for factor, side in pairs if side.is_floating_point()]
    total = sum(parts[1:], parts[0]) if parts else value
    sides = total.expand(value.shape).to(value.dtype)
    passed: Tensor = _Passed.apply(value.detach(), sides)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return passed
