"""Layouts of units: which elements of a layer's states might meet in one step, if all others do not.

Several states of one size are variables of the same units, as the real and imaginary part of linear recurrent
units. A state may also hold several variables itself: one after another, or along an axis of their own.
Whether the units of a layout really do not meet is for the step to say, as it runs (`blocks.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Variables that one state is taken apart into, and that a unit may have in all.
_PARTS = (2, 3, 4)
_WIDEST = 8


@dataclass(frozen=True)
class UnitLayout:
    """`width` variables of `units` units each: element i of unit a lies at places[i, a] of the flat state."""

    places: Tensor

    @property
    def width(self) -> int:
        return self.places.shape[0]

    @property
    def units(self) -> int:
        return self.places.shape[1]

    def unit_of(self) -> Tensor:
        """The unit [n] of every element of the flat state."""
        units = torch.empty(self.places.numel(), dtype=torch.long)
        units[self.places] = torch.arange(self.units).expand_as(self.places)
        return units


def unit_layouts(shapes: Sequence[Sequence[int]]) -> Iterator[UnitLayout]:
    """Layouts of a layer with states of these shapes, the narrowest ones first."""
    sizes = [math.prod(shape) for shape in shapes]
    if len(set(sizes)) != 1 or min(sizes) == 0:
        return
    count, size = len(shapes), sizes[0]
    places = torch.arange(count * size).reshape(count, size)
    yield UnitLayout(places)
    seen: list[Tensor] = []
    if len({tuple(shape) for shape in shapes}) > 1:
        return
    for parts in _PARTS:
        for axis, length in enumerate(shapes[0]):
            if length % parts or size == parts or count * parts > _WIDEST:
                continue
            before = math.prod(shapes[0][:axis])
            rest = size // (before * length)
            # Variables as blocks of the axis, and as its fastest index.
            outer = places.reshape(count, before, parts, length // parts, rest).movedim(2, 1)
            inner = places.reshape(count, before, length // parts, parts, rest).movedim(3, 1)
            for order in (outer, inner):
                found = order.reshape(count * parts, size // parts)
                if not any(torch.equal(found, own) for own in seen):
                    seen.append(found)
                    yield UnitLayout(found)
