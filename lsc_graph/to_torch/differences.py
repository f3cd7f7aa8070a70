"""Jacobians by finite differences, and how well they are known.

Central differences D_h and D_2h along every input element are extrapolated to order h^4:
E_h = (4 D_h - D_2h) / 3. Twice what the two differ by is a bar that E_h stays within: where the finite step
is what errs, D_h is off by a third of it and E_h by less; where rounding is, or quantisation, E_h is off by
4/3 of what D_h is, as is about the difference. Rounding adds eps |f| / h; with h = eps^(1/5) times the
input's scale it is as large as what the extrapolation leaves.
In single precision the finite step makes that bar far wider than what E_h is off by. There is a D_h/2 as
well: where it is D_h's and D_2h's finite step that errs, which shows as E_h/2 and E_h are several times
nearer to each other than D_h and D_2h, E_h/2 stays within twice of what it and E_h differ by.
At a kink, such as that of a ReLU at zero, E is the mean of two slopes: how far these are apart, as far as
that does not shrink with h, is added to the bar; so is rounding by this.
Where the bar is wide, a smaller step, which passes over as many times fewer kinks, takes the place of h if
its bar is smaller and its value within the bar of the other, and where slopes are steeper by that, as of what
is narrower than a step, so do smaller ones still. If one claims a smaller bar, but is not within that of the
other, both are known within what they are apart by. In double precision, where no quantised kernel
makes stairs, steeper slopes with narrow bars of their own are the true ones; where the last step's are
steeper without, nothing is known better than by what they are apart. In single precision a larger one is
tried as well, for inputs that do not show their scale, as states that are still zero.
No bar is shorter than what rounding of all outputs does, also of those that have not moved: they may be
rounded to what they were. Nor is it shorter than the median of those of all columns: of few outputs that
move, two differences may agree by chance.
Where a piece can be run for many points at once, one column of every Jacobian is taken point by point as
well: unless the two agree within their bars, so is everything else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lsc_graph.errors import AnalysisError, TimeLimitError
from lsc_graph.running.reference import Array
from lsc_graph.to_torch.copies import NUM_SHIFTS, Runs
from lsc_graph.to_torch.kept import Digests, Kept

_BAR = 2.0
LEVELS = {np.float64: (1.0, 2.0), np.float32: (0.5, 1.0, 2.0)}
# A bar, relative to the values, from which on other steps are tried, and how many times larger: rounding
# then adds less than that.
FINE_ENOUGH = 1e-3
FINER = {np.float64: 1 / 128, np.float32: 1 / 16}
_NUM_FINER = {np.float64: 4, np.float32: 3}
_COARSER = 16.0
LEAST_SCALE = 1e-2
# How many times nearer to each other values of higher order have to be.
_NEARER = 6.0
# What is narrower than a step has slopes so many times larger at a smaller one: then there is another.
_STEEPER = 1.5
# A bar, relative to the values, below which a steeper slope is one, whatever larger steps say.
_KNOWN = 0.1
# By how much of a unit in the last place rounding is off where slopes are taken.
ROUNDED = 0.25
_KEPT_BYTES, _VALUES_BYTES = 2**29, 2**26
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
    is_by_products: bool = False
    """Whether there are pieces whose derivatives are known by their products with directions alone."""

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

    def forget(self) -> None:
        """Keep no Jacobian: from now on they are asked for at other points."""
        self._jacobians.clear()

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
    found = _by_many(runs, given, index, record.random) or _taken(_Shifts(runs, given, index))
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
    with suppress(AnalysisError):
        found = _taken(_Shifts(runs, values, index))
        if _is_borne_out(found, runs, values, index, random):
            return found
    runs.refuse(index)
    return None


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

        finite = self.point[np.isfinite(self.point)]
        scale = float(np.sqrt(np.mean(np.square(finite, dtype=np.float64)))) if finite.size else 1.0
        self.step = float(np.finfo(runs.dtype).eps ** 0.2) * max(scale, LEAST_SCALE)
        powers = range(1, _NUM_FINER[runs.dtype] + 1)
        self.other_steps = [self.step * FINER[runs.dtype] ** power for power in powers]
        # In single precision stairs of quantised kernels are steeper by any step.
        self.least_step = self.other_steps[-1] if runs.dtype is np.float64 else 0.0
        if scale <= LEAST_SCALE and runs.dtype is np.float32:
            self.other_steps.append(self.step * _COARSER)

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
        """Elements whose shifts are run together."""
        size = max(1, self.at_once // NUM_SHIFTS[self.runs.dtype])
        return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def _taken(shifts: _Shifts) -> Difference:
    """By central differences, extrapolated."""
    point = shifts.point.reshape(-1)
    jacobian = np.full((shifts.middles.shape[1], point.size), np.nan)
    bars = np.full(point.size, np.nan)
    for numbers in shifts.groups(np.flatnonzero(np.isfinite(point))):
        slopes, bars[numbers], _ = _slopes(shifts, numbers, shifts.step)
        jacobian[:, numbers] = slopes.T
    doubts, steeper = np.zeros(point.size), np.ones(point.size, dtype=bool)
    for step in shifts.other_steps:
        # Seldom is a kink as near as a smaller step; and large elements may have made this one wide.
        with np.errstate(invalid="ignore"):
            wide = bars > FINE_ENOUGH * np.linalg.norm(jacobian, axis=0)
        if step < shifts.other_steps[0]:
            wide &= steeper
        for numbers in shifts.groups(np.flatnonzero(wide)):
            others, errors, has_moved = _slopes(shifts, numbers, step)
            # Between two stairs of a quantised kernel nothing moves, which tells nothing.
            is_telling = others.any(1) if shifts.runs.dtype == np.float32 else np.full(len(numbers), True)
            first, wider = jacobian[:, numbers].T, bars[numbers]
            is_better = is_telling & _is_better(others, errors, first, wider)
            if step < shifts.step:
                is_better |= is_telling & _is_resolved(errors, has_moved, first, wider)
            length = np.linalg.norm(others, axis=1)
            steeper[numbers] = length > _STEEPER * np.linalg.norm(first, axis=1)
            is_open = steeper[numbers] & (step == shifts.least_step)
            if shifts.least_step:
                # Of what is small but for a narrow place, larger steps have narrow bars, and see nothing.
                is_better |= steeper[numbers] & (errors <= _KNOWN * length)
            # Two that contradict each other are both known within what they are apart by.
            is_doubted = is_telling & (errors < wider) | is_open
            apart = np.where(is_doubted, np.linalg.norm(others - first, axis=1), 0.0)
            doubts[numbers] = np.where(is_better, 0.0, np.maximum(doubts[numbers], apart))
            chosen = numbers[is_better]
            jacobian[:, chosen], bars[chosen] = others[is_better].T, errors[is_better]
    return Difference(jacobian, _pooled(np.maximum(bars, doubts), shifts.has_moved), shifts.has_moved)


def _pooled(bars: Array, has_moved: Array) -> Array:
    """Bars no shorter than those of half of all columns: of few outputs two differences agree by chance."""
    moving = has_moved.any(0) & np.isfinite(bars)
    if not moving.any():
        return bars
    return np.where(moving, np.maximum(bars, np.median(bars[moving])), bars)


def _slopes(shifts: _Shifts, numbers: Array, step: float) -> tuple[Array, Array, Array]:
    """Derivatives [c, m] by some elements, by steps of about h, the length of each one's bar [c], and which
    outputs each of them has moved [c, m]."""
    levels = step * np.array([sign * level for level in LEVELS[shifts.runs.dtype] for sign in (1, -1)])
    real, moved, is_other = shifts.by(np.repeat(numbers, len(levels)), np.tile(levels, len(numbers)))
    has_moved = np.asarray(is_other.reshape(len(numbers), len(levels), -1).any(1))
    shifts.has_moved[:, numbers] |= has_moved.T
    right, left = real.reshape(len(numbers), -1, 2, 1).transpose(2, 1, 0, 3)
    after, before = moved.reshape(len(numbers), len(levels) // 2, 2, -1).transpose(2, 1, 0, 3)
    slopes, bars = extrapolated(right, left, after, before)
    # All of these may by chance be less than what outputs are rounded by.
    return slopes, bars + _rounding(shifts, slopes, step), has_moved


def extrapolated(right: Array, left: Array, after: Array, before: Array) -> tuple[Array, Array]:
    """Derivatives [c, m], and the length of each one's bar [c], from shifts of two or three sizes, each twice
    as far as the one before.

    Args:
        right, left: how far they go to both sides [L, c, 1].
        after, before: what they add to the outputs [L, c, m].
    """
    central, jumps = (after - before) / (right - left), after / right - before / left
    kinks = np.linalg.norm(2 * jumps[:-1] - jumps[1:], axis=2) / 2
    found = (4 * central[:-1] - central[1:]) / 3
    apart = np.linalg.norm(central[:-1] - central[1:], axis=2)
    slopes, bars = found[-1], _BAR * apart[-1] + kinks[-1]
    if len(found) > 1:
        nearer = np.linalg.norm(found[0] - found[1], axis=1)
        finer = _BAR * nearer + kinks[0]
        is_finer = (_NEARER * nearer <= apart[1]) & (finer < bars)
        slopes, bars = np.where(is_finer[:, None], found[0], slopes), np.where(is_finer, finer, bars)
    return slopes, bars


def _rounding(shifts: _Shifts, slopes: Array, step: float) -> Array:
    """What rounding alone does to derivatives [c, m] by steps of about h: the length for each element [c]."""
    eps = np.finfo(shifts.runs.dtype).eps
    # What does not move may be rounded to what it was.
    length = np.linalg.norm(np.nan_to_num(shifts.middles[0], nan=0.0, posinf=0.0, neginf=0.0))
    found: Array = eps * (np.linalg.norm(slopes, axis=1) + ROUNDED * length / step)
    return found


def _is_resolved(errors: Array, has_moved: Array, first: Array, bars: Array) -> Array:
    """Whether smaller steps see what is narrower than larger ones, whose bars [c] are then no bars.

    They move what the larger ones move, and have smaller bars; stairs of a quantised kernel are not moved.
    """
    unmoved = np.linalg.norm(np.where(has_moved, 0.0, first), axis=1)
    is_seen: Array = (unmoved <= bars) & (errors < bars)
    return is_seen


def _is_better(slopes: Array, bars: Array, others: Array, other_bars: Array) -> Array:
    """Whether derivatives [c, m] have smaller bars than others, which they are within."""
    is_within: Array = np.linalg.norm(slopes - others, axis=1) <= other_bars
    return is_within & (bars < other_bars)


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
    slopes, errors, _ = _slopes(single, np.array([number]), single.step)
    with np.errstate(invalid="ignore"):
        outputs = np.nan_to_num(single.middles, nan=0.0, posinf=0.0, neginf=0.0)
    rounding = _ROUNDING * np.finfo(runs.dtype).eps * float(np.linalg.norm(outputs)) / single.step
    allowed = _AGREES * (errors[0] + found.bars[number]) + rounding
    return bool(np.linalg.norm(slopes[0] - found.jacobian[:, number]) <= allowed)


def cast_floats(value: Array, dtype: Any) -> Array:
    """Floats in a precision; others as they are."""
    return value.astype(dtype) if value.dtype.kind == "f" else value
