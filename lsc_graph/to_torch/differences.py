"""Jacobians by finite differences, and how well they are known.

Central differences at h and 2 h along every input element, extrapolated to order h^4: D = (4 D_h - D_2h) / 3.
Twice what they differ by is a bar that D stays within: where the finite step is what errs, D_h is off by a
third of it and D by less; where rounding is, or quantisation, D is off by 4/3 of what D_h is, as is about the
difference. Rounding adds eps |f| / h; with h = eps^(1/5) times the input's scale it is as large as what the
extrapolation leaves.
At a kink, such as that of a ReLU at zero, D is the mean of two slopes: how far these are apart, as far as
that does not shrink with h, is added to the bar.
Where the bar is wide, a smaller step, which passes over as many times fewer kinks, takes the place of h if
its bar is smaller and its value within the bar of the other.
Where a piece can be run for many points at once, one column of every Jacobian is taken point by point as
well: unless the two agree within their bars, so is everything else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lsc_graph.errors import AnalysisError, TimeLimitError
from lsc_graph.running.reference import Array
from lsc_graph.to_torch.copies import Runs
from lsc_graph.to_torch.kept import Digests, Kept

_BAR = 2.0
# A bar, relative to the values, from which on a smaller step is tried, and how many times smaller: rounding
# then adds less than that.
_FINE_ENOUGH = 1e-3
_FINER = {np.float64: 128, np.float32: 16}
_KEPT_BYTES, _VALUES_BYTES = 2**30, 2**26
_RUNS_BETWEEN_WORDS = 64
# Bars are estimates: how many times wider ones two ways of running a piece may differ by, and what rounding
# by so many units in the last place does.
_AGREES, _ROUNDING = 4.0, 64


@dataclass(frozen=True)
class Difference:
    """A Jacobian [m, n] by differences, the length of each column's error bar [n], and what moved at all."""

    jacobian: Array
    bars: Array
    has_moved: Array

    @property
    def nbytes(self) -> int:
        return self.jacobian.nbytes + self.bars.nbytes + self.has_moved.nbytes

    def changed(self, seed: int) -> Array:
        """Another one within the bars: each column moved in a random direction by as much as they allow."""
        signs = np.random.default_rng(seed).integers(0, 2, self.jacobian.shape, dtype=np.int8)
        random = (2 * signs - 1) * self.has_moved
        lengths = np.sqrt(self.has_moved.sum(0))
        return self.jacobian + random * (self.bars / np.where(lengths > 0, lengths, 1.0))


def _num_bytes(outputs: Sequence[Array]) -> int:
    return sum(value.nbytes for value in outputs)


@dataclass
class Differences:
    """What finite differences were taken of, and how well they are known.

    `errors` holds, for every Jacobian, the norm of its error bars relative to its own. As many are kept as
    fit, and `values` of the pieces. `progress` is told now and then how many runs there have been. After
    `deadline`, by `time.perf_counter`, there are no more runs, but a `TimeLimitError`.
    """

    parts: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    has_double: bool = True
    num_runs: int = 0
    is_changed: bool = False
    progress: Callable[[int], None] | None = None
    deadline: float | None = None
    digests: Digests = field(default_factory=Digests)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    values: Kept[list[Array]] = field(default_factory=lambda: Kept(_VALUES_BYTES, _num_bytes))
    _jacobians: Kept[Difference] = field(default_factory=lambda: Kept(_KEPT_BYTES, lambda own: own.nbytes))

    def note_run(self) -> None:
        """One more run."""
        if self.deadline is not None and time.perf_counter() > self.deadline:
            raise TimeLimitError(
                "No sample could be measured in the time that was allowed",
                where=", ".join(self.parts[:1]),
                got=f"{self.num_runs:,} runs for finite differences, of a first sample that needs more",
                do="allow more time (--max-seconds), or fewer --steps",
            )
        self.num_runs += 1
        if self.progress is not None and self.num_runs % _RUNS_BETWEEN_WORDS == 0:
            self.progress(self.num_runs)

    @contextmanager
    def changed(self) -> Iterator[None]:
        """All derivatives are others within their bars, the same ones at the same points."""
        self.is_changed = True
        try:
            yield
        finally:
            self.is_changed = False

    def at(self, key: bytes, take: Callable[[], Difference]) -> Array:
        """The Jacobian of this key, taken if it is not kept."""
        found = self._jacobians.at(key, take)
        return found.changed(int.from_bytes(key[:8], "little")) if self.is_changed else found.jacobian


def differences(runs: Runs, values: Sequence[Array], index: int, record: Differences) -> Difference:
    """The derivative of all float outputs by one input, at one point."""
    given = [cast_floats(value, runs.dtype) for value in values]
    found = _by_many(runs, given, index, record.random)
    if found is None:
        runs.refuse(index)
        found = _taken(_Shifts(runs, given, index))
    norm = float(np.linalg.norm(found.jacobian))
    if norm > 0:
        record.errors.append(float(np.linalg.norm(found.bars)) / norm)
    return found


def _by_many(
    runs: Runs, values: Sequence[Array], index: int, random: np.random.Generator
) -> Difference | None:
    """The derivative by runs for many points at once; None where these do not give what single ones do."""
    if runs.num_at_once(values, index) == 1:
        return None
    try:
        found = _taken(_Shifts(runs, values, index))
    except AnalysisError:
        return None
    return found if _is_borne_out(found, runs, values, index, random) else None


class _Shifts:
    """What shifts of single elements of an input do to the outputs, at one point.

    Args:
        runs: the piece.
        values: the point.
        index: which input.
        is_single: to run it for one shift after another, whatever it can take at once.
    """

    def __init__(self, runs: Runs, values: Sequence[Array], index: int, *, is_single: bool = False) -> None:
        self.runs, self.values, self.index = runs, values, index
        self.point = values[index]
        self.at_once = 1 if is_single else runs.num_at_once(values, index)
        self.is_together = self.at_once > 1
        # Results are rounded otherwise at other places of a batch: each is compared with its own.
        self.middles = self._run(np.broadcast_to(self.point, (self.at_once, *self.point.shape)))
        self.has_moved = np.zeros((self.middles.shape[1], self.point.size), dtype=bool)

    @property
    def step(self) -> float:
        finite = self.point[np.isfinite(self.point)]
        scale = float(np.sqrt(np.mean(np.square(finite, dtype=np.float64)))) if finite.size else 1.0
        step: float = np.finfo(self.runs.dtype).eps ** 0.2
        return float(step * max(scale, 1e-2))

    def by(self, numbers: Array, lengths: Array) -> tuple[Array, Array, Array]:
        """How far shifts of elements by about so much really go [K], what they add to the outputs [K, m], and
        which outputs are others at all."""
        real, found = np.empty(len(numbers)), np.empty((len(numbers), self.middles.shape[1]))
        for start in range(0, len(numbers), self.at_once):
            part = slice(start, start + self.at_once)
            rows = np.repeat(self.point.reshape(1, -1), self.at_once, 0)
            places = np.arange(len(numbers[part])), numbers[part]
            rows[places] += lengths[part].astype(rows.dtype)
            real[part] = rows[places].astype(np.float64) - self.point.reshape(-1)[numbers[part]]
            found[part] = self._run(rows.reshape(-1, *self.point.shape))[: len(numbers[part])]
        middles = np.resize(self.middles, found.shape)
        is_other = found != middles
        if self.is_together and is_other[:, self.runs.is_one_for_all(self.index)].any():
            raise AnalysisError("What follows from many points together moves")
        # What stays infinite has not moved.
        return real, np.subtract(found, middles, out=np.zeros_like(found), where=is_other), is_other

    def _run(self, rows: Array) -> Array:
        if self.is_together:
            return self.runs.together(self.values, self.index, rows)
        given = list(self.values)
        given[self.index] = np.asarray(rows[0])
        return self.runs.one(given)[None]

    def groups(self, numbers: Array) -> list[Array]:
        """Elements whose four shifts are run together."""
        size = max(1, self.at_once // 4)
        return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def _taken(shifts: _Shifts) -> Difference:
    """By central differences, extrapolated."""
    point, step = shifts.point.reshape(-1), shifts.step
    jacobian = np.full((shifts.middles.shape[1], point.size), np.nan)
    bars = np.full(point.size, np.nan)
    wide: list[int] = []
    for numbers in shifts.groups(np.flatnonzero(np.isfinite(point))):
        slopes, errors = _slopes(shifts, numbers, step)
        jacobian[:, numbers], bars[numbers] = slopes.T, errors
        wide += numbers[errors > _FINE_ENOUGH * np.linalg.norm(slopes, axis=1)].tolist()
    for numbers in shifts.groups(np.asarray(wide, dtype=int)):
        # Seldom is a kink as near as a smaller step; and large elements may have made this one wide.
        finer, errors = _slopes(shifts, numbers, step / _FINER[shifts.runs.dtype])
        # Between two stairs of a quantised kernel nothing moves, which tells nothing.
        is_telling = finer.any(1) if shifts.runs.dtype == np.float32 else np.full(len(numbers), True)
        is_consistent = np.linalg.norm(finer - jacobian[:, numbers].T, axis=1) <= bars[numbers]
        is_better = is_telling & is_consistent & (errors < bars[numbers])
        chosen = numbers[is_better]
        jacobian[:, chosen], bars[chosen] = finer[is_better].T, errors[is_better]
    return Difference(jacobian, bars, shifts.has_moved)


def _slopes(shifts: _Shifts, numbers: Array, step: float) -> tuple[Array, Array]:
    """Derivatives [c, m] by some elements, by steps of h and 2 h, and the length of each one's bar [c]."""
    lengths = step * np.array([1.0, -1.0, 2.0, -2.0])
    real, moved, is_other = shifts.by(np.repeat(numbers, 4), np.tile(lengths, len(numbers)))
    shifts.has_moved[:, numbers] |= is_other.reshape(len(numbers), 4, -1).any(1).T
    right, left, far_right, far_left = real.reshape(-1, 4, 1).transpose(1, 0, 2)
    after, before, far_after, far_before = moved.reshape(len(numbers), 4, -1).transpose(1, 0, 2)
    fine, coarse = (after - before) / (right - left), (far_after - far_before) / (far_right - far_left)
    jump, wide_jump = after / right - before / left, far_after / far_right - far_before / far_left
    kinks = np.linalg.norm(2 * jump - wide_jump, axis=1) / 2
    return (4 * fine - coarse) / 3, _BAR * np.linalg.norm(fine - coarse, axis=1) + kinks


def _is_borne_out(
    found: Difference, runs: Runs, values: Sequence[Array], index: int, random: np.random.Generator
) -> bool:
    """Whether a column is the same, within the bars, where the piece is run for one point at a time."""
    known = np.isfinite(found.jacobian).all(0)
    telling = np.flatnonzero(known & found.has_moved.any(0))
    if not len(telling):
        return True
    number = int(random.choice(telling))
    single = _Shifts(runs, values, index, is_single=True)
    slopes, errors = _slopes(single, np.array([number]), single.step)
    with np.errstate(invalid="ignore"):
        outputs = np.nan_to_num(single.middles, nan=0.0, posinf=0.0, neginf=0.0)
    rounding = _ROUNDING * np.finfo(runs.dtype).eps * float(np.linalg.norm(outputs)) / single.step
    allowed = _AGREES * (errors[0] + found.bars[number]) + rounding
    return bool(np.linalg.norm(slopes[0] - found.jacobian[:, number]) <= allowed)


def cast_floats(value: Array, dtype: Any) -> Array:
    """Floats in a precision; others as they are."""
    return value.astype(dtype) if value.dtype.kind == "f" else value
