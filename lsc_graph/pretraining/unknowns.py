"""The few unknowns of rescaling: log-scales of weight blocks, shifts of vectors, transitions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from lsc_graph.pretraining.gate_blocks import Block, gate_blocks
from lsc_graph.pretraining.trainable import Weight


class Change(StrEnum):
    """What an unknown does: theta exp(u), theta + u, or theta + u delta with a given delta."""

    SCALE = "scale"
    SHIFT = "shift"
    TRANSITION = "transition"


_LIMITS = {Change.SCALE: 0.7, Change.SHIFT: 1.0, Change.TRANSITION: 0.7}


@dataclass(frozen=True)
class Unknown:
    """One unknown: what it does to which block of which weight."""

    weight: int
    block: Block
    change: Change


class Unknowns:
    """Weights as functions of the unknowns, which are zero at the weights' current values.

    Args:
        weights: what is trained.
        widths: sizes of the states, for finding gates.
        transitions: per index of a weight, the change of each element that would scale every eigenvalue of a
            diagonal transition by the same factor: such a weight has this one unknown (see `transitions.py`).
    """

    def __init__(
        self, weights: Sequence[Weight], widths: Collection[int], transitions: Mapping[int, Tensor]
    ) -> None:
        self._weights, self.transitions = weights, transitions
        self.list: list[Unknown] = []
        self._blocks = [gate_blocks(weight.value.shape, widths, weight.cuts) for weight in weights]
        for index, weight in enumerate(weights):
            if index in transitions:
                self.list.append(Unknown(index, (), Change.TRANSITION))
                continue
            for block in self._blocks[index]:
                self.list += [Unknown(index, block, change) for change in _changes(weight, block)]

    def __len__(self) -> int:
        return len(self.list)

    def apply(self, values: Sequence[Tensor], unknowns: Tensor) -> list[Tensor]:
        """The weights' values at `unknowns` [K], differentiable in them."""
        scales: list[list[tuple[Block, Tensor]]] = [[] for _ in values]
        shifts: list[list[tuple[Block, Tensor]]] = [[] for _ in values]
        changed = list(values)
        for unknown, u in zip(self.list, unknowns.unbind(), strict=True):
            if unknown.change is Change.TRANSITION:
                value = values[unknown.weight]
                delta = self.transitions[unknown.weight].to(value.device, u.dtype)
                changed[unknown.weight] = (value + u * delta).to(value)
            else:
                pieces = scales if unknown.change is Change.SCALE else shifts
                pieces[unknown.weight].append((unknown.block, u))
        for index, value in enumerate(values):
            if scales[index] or shifts[index]:
                factor = _field(value, scales[index]).exp()
                changed[index] = (value * factor + _field(value, shifts[index])).to(value)
        return changed

    def limits(self, units: Tensor) -> Tensor:
        """What each change [K] can be trusted for: of shifts so many units."""
        return torch.stack([self._limit(k, unit) for k, unit in zip(self.list, units.unbind(), strict=True)])

    def _limit(self, unknown: Unknown, unit: Tensor) -> Tensor:
        limit = _LIMITS[unknown.change] * torch.ones_like(unit)
        if unknown.change is Change.SHIFT:
            return limit * unit
        return limit

    def ways(self, unknowns: Tensor) -> dict[int, float]:
        """Per weight that is a transition, the log of the factor on its eigenvalues at `unknowns` [K]."""
        numbers = zip(self.list, unknowns.tolist(), strict=True)
        return {unknown.weight: u for unknown, u in numbers if unknown.change is Change.TRANSITION}

    def with_ways(self, unknowns: Tensor, ways: Mapping[int, float]) -> Tensor:
        """The same with other ones of transitions."""
        changed = unknowns.clone()
        for number, unknown in enumerate(self.list):
            if unknown.change is Change.TRANSITION:
                changed[number] = ways[unknown.weight]
        return changed

    def slopes(self, values: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Tensor:
        """Derivatives with respect to the unknowns [K], at zero, from those with respect to the weights."""
        scaled = [None if g is None else g * v for v, g in zip(values, gradients, strict=True)]
        found = []
        for unknown in self.list:
            gradient, product = gradients[unknown.weight], scaled[unknown.weight]
            if gradient is None or product is None:
                found.append(torch.zeros((), dtype=torch.float64))
            elif unknown.change is Change.TRANSITION:
                found.append((gradient * self.transitions[unknown.weight].to(gradient)).sum())
            else:
                chosen = product if unknown.change is Change.SCALE else gradient
                found.append(chosen[unknown.block].sum())
        return torch.stack([number.double().cpu() for number in found])


def _changes(weight: Weight, block: Block) -> tuple[Change, ...]:
    """Matrices are scaled; vectors are shifted, and scaled unless they are zero."""
    is_zero = not bool(weight.value[block].any())
    if weight.num_axes > 1 and not _is_stack_of_vectors(weight):
        return () if is_zero else (Change.SCALE,)
    return (Change.SHIFT,) if is_zero else (Change.SHIFT, Change.SCALE)


def _is_stack_of_vectors(weight: Weight) -> bool:
    """[2, 8H]: the biases of two directions."""
    return weight.value.ndim == 2 and weight.value.shape[0] == 2


def _field(value: Tensor, pieces: Sequence[tuple[Block, Tensor]]) -> Tensor:
    """A tensor of the value's shape that holds each piece's number in its block, and zero elsewhere."""
    if not pieces:
        return torch.zeros((), dtype=torch.float32, device=value.device)
    stacked = torch.stack([u for _, u in pieces]).float()
    padded = torch.cat([stacked.new_zeros(1), stacked]).to(value.device)
    index = torch.zeros(value.shape, dtype=torch.long, device=value.device)
    for number, (block, _) in enumerate(pieces):
        index[block] = number + 1
    return padded[index]
