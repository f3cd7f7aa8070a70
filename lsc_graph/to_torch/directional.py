"""Products of Jacobians with directions by finite differences: where single elements would be too many.

A direction moves all elements at once, none by more than a step of its input's scale: central differences,
extrapolated and with the bars of single elements. It passes over many kinks, as of ReLUs, in proportion to
the step, so that where the bar is wide, smaller steps are tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lsc_graph.running.reference import Array
from lsc_graph.to_torch.copies import Runs
from lsc_graph.to_torch.differences import (
    FINE_ENOUGH,
    FINER,
    LEAST_SCALE,
    LEVELS,
    ROUNDED,
    Difference,
    Differences,
    cast_floats,
    extrapolated,
)

_NUM_FINER = 2
Directions = dict[int, Array]
"""A direction by the numbers of the inputs that it moves, each in the input's shape."""


def directional(
    runs: Runs, values: Sequence[Array], directions: Directions, record: Differences
) -> Difference:
    """J v of all float outputs [m, 1] at one point, with the length of its bar."""
    given = [cast_floats(value, runs.dtype) for value in values]
    reach = max((_reach(given[index], own) for index, own in directions.items()), default=0.0)
    middle = runs.one(given)
    if reach == 0:
        nothing = np.zeros((len(middle), 1))
        return Difference(nothing, np.zeros(1), nothing != 0)
    step = float(np.finfo(runs.dtype).eps ** 0.2) / reach
    best = _at(runs, given, directions, middle, step)
    for _ in range(_NUM_FINER):
        if best.bars[0] <= FINE_ENOUGH * np.linalg.norm(best.jacobian):
            break
        step *= FINER[runs.dtype]
        best = _better(best, _at(runs, given, directions, middle, step))
    norm = float(np.linalg.norm(best.jacobian))
    if norm > 0:
        record.errors.append(float(best.bars[0]) / norm)
    return best


def _reach(value: Array, direction: Array) -> float:
    """How far a direction moves any element, relative to the scale of all."""
    finite = value[np.isfinite(value)]
    scale = float(np.sqrt(np.mean(np.square(finite, dtype=np.float64)))) if finite.size else 1.0
    return float(np.abs(direction).max(initial=0.0)) / max(scale, LEAST_SCALE)


def _better(first: Difference, other: Difference) -> Difference:
    """The one with the smaller bar, if it is within that of the other."""
    apart = float(np.linalg.norm(other.jacobian - first.jacobian))
    is_better = other.bars[0] < first.bars[0] and apart <= first.bars[0]
    chosen = other if is_better and other.jacobian.any() else first
    return replace(chosen, has_moved=first.has_moved | other.has_moved)


def _at(
    runs: Runs, values: Sequence[Array], directions: Directions, middle: Array, step: float
) -> Difference:
    """By shifts of about this many times the direction."""
    levels = [step * level for level in LEVELS[runs.dtype]]
    moved = np.stack(
        [
            np.stack([_moved(runs, values, directions, middle, sign * level) for level in levels])
            for sign in (1, -1)
        ]
    )
    right = np.array(levels)[:, None, None]
    slopes, bars = extrapolated(right, -right, moved[0][:, None], moved[1][:, None])
    has_moved: Array = np.any(moved != 0, axis=(0, 1))
    sizes = np.where(has_moved, np.nan_to_num(np.abs(middle), nan=0.0, posinf=0.0, neginf=0.0), 0.0)
    # What inputs and outputs are rounded by where they are taken.
    eps = float(np.finfo(runs.dtype).eps)
    relative = _length([values[index] for index in directions]) / _length(list(directions.values()))
    norm = float(np.linalg.norm(slopes))
    rounding = eps * (norm + ROUNDED * (norm * relative + float(np.linalg.norm(sizes))) / step)
    return Difference(slopes.T, bars + rounding, has_moved[:, None])


def _length(parts: Sequence[Array]) -> float:
    """Of what several arrays hold together, as far as it is finite."""
    squares = (np.square(own[np.isfinite(own)], dtype=np.float64).sum() for own in parts)
    return math.sqrt(sum(float(own) for own in squares))


def _moved(
    runs: Runs, values: Sequence[Array], directions: Directions, middle: Array, length: float
) -> Array:
    """What a shift adds to the outputs."""
    given: list[Any] = list(values)
    for index, own in directions.items():
        given[index] = np.asarray(values[index] + length * own, dtype=values[index].dtype)
    found = runs.one(given)
    # What stays infinite has not moved.
    return np.subtract(found, middle, out=np.zeros_like(found), where=found != middle)
