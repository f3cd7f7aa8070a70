"""Selections, such as maxima, as if their derivative passed to all that they choose from.

What a value depends on is then seen at every point, whichever side is chosen there. Values stay what they
are; the derivatives only tell who is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lsc_graph.to_torch.of_many import EXTREMES, extreme_of, pooled_from, rows_of

# Unlike each other and unlike 1, so that sides which are computed from one value do not cancel.
_FACTORS = (0.7548, 0.5698, 0.8191)


class AllSides(TorchFunctionMode):
    """While it is entered, selections pass derivatives to all sides; `has_selected` says that there are some.

    A `Where` does so if what decides is computed from values that gradients are taken of. A mask that is
    given instead, as that of causal attention, hides at every point what it hides at one. The largest of
    many stays as it is where it is taken off before an exponential, as in a softmax: it cancels, but for
    rounding.
    """

    def __init__(self) -> None:
        super().__init__()
        self.has_selected = False
        # Of what follows from derivatives but carries none: kept, for their ids to stay theirs.
        self._deciding: dict[int, Tensor] = {}
        # Maxima of many, and what is computed from them, with the same as it is without all sides.
        self._plain: dict[int, _Plain] = {}
        self._kept: list[Tensor] = []

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
        plain = self._plain_of(func, args, kwargs)
        if plain is not None and plain.is_taken_off and _name(func) == "exp":
            return plain.value
        self._mark(found)
        value = _first(found)
        sides = self._sides(func, args, kwargs)
        if not sides and isinstance(value, Tensor):
            sides = [*self._of_many(func, args, kwargs, value)]
        passed = _passed(value, sides) if sides else value
        if plain is not None or (sides and _name(func) in EXTREMES):
            self._plain[id(passed)] = plain or _Plain(value, is_taken_off=False)
            self._kept.append(passed)
        self.has_selected |= bool(sides)
        return _with_first(found, passed) if sides else found

    def _plain_of(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> _Plain | None:
        """The same function of maxima as they are, if it takes such and only moves them or takes them off."""
        taken = [self._plain[id(value)] for value in args if id(value) in self._plain]
        if not taken or _name(func) not in _FOLLOWED | EXTREMES:
            return None
        own = [self._plain[id(value)].value if id(value) in self._plain else value for value in args]
        is_taken_off = _name(func) in _TAKEN_OFF or any(plain.is_taken_off for plain in taken)
        return _Plain(_first(func(*own, **kwargs)), is_taken_off)

    def _of_many(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], value: Tensor
    ) -> Iterator[Tensor]:
        found = (
            extreme_of(_name(func), args, kwargs),
            pooled_from(_name(func), args, kwargs, value.shape),
            rows_of(_name(func), args, self._follows, value.shape),
        )
        yield from (side for side in found if side is not None)

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


_TAKEN_OFF = frozenset(("sub", "__sub__"))
_FOLLOWED = _TAKEN_OFF | {"exp", "reshape", "view", "unsqueeze", "squeeze", "expand", "expand_as", "to"}


@dataclass(frozen=True)
class _Plain:
    """A value with the derivative that it has; `is_taken_off` says that a maximum has been subtracted."""

    value: Any
    is_taken_off: bool


def _name(func: Callable[..., Any]) -> str:
    return str(getattr(func, "__name__", ""))


def _first(found: Any) -> Any:
    """Values, where indices come with them."""
    return found[0] if isinstance(found, tuple) and found else found


def _with_first(found: Any, value: Tensor) -> Any:
    return type(found)((value, *found[1:])) if isinstance(found, tuple) else value


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
