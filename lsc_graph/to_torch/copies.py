"""A piece of a model run for many points at once: copies of its inputs put together along an axis.

Which axis of which input and output that is, is tried: copies that differ have to come out as each does by
itself. What mixes them, as a sum over the batch or the range of a tensor that is quantised as it runs, or
what has its sizes written into it, is run for one point at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lsc_graph.errors import AnalysisError
from lsc_graph.running.reference import Array, Reference

# Fewer elements than this are differentiated by one point at a time.
_MIN_ELEMENTS = 8
_NUM_TRIED, _MAX_TRIES = 3, 12
# Rounding that may differ, relative to the largest element: products of many rows sum in another order.
_AGREES = {np.float64: 1e-9, np.float32: 2e-5}
_MIXED, _NEAR = -1, 0.1
_MOST_AT_ONCE, _FEWEST_AT_ONCE = 512, 64
_MAX_BYTES = 2**26
"""What all values of a piece may take together while it runs for many points."""
NUM_SHIFTS = {np.float64: 4, np.float32: 6}
"""How many points an element is differentiated by, in doubles and in single precision: they run together."""
Axes = Mapping[int, int]


@dataclass(frozen=True)
class Layout:
    """Along which axes copies are put together: of inputs by number, and of each float output.

    None where an output did not depend on the input that is differentiated by: its elements are one for all,
    and if they ever move, that is due to no copy alone. As many copies at once fit.
    """

    inputs: Axes
    outputs: tuple[int | None, ...]
    num_fitting: int
    is_one_for_all: Array


class Runs:
    """A piece in one precision, for one point or for many at once.

    Args:
        reference: the piece.
        names: of its inputs, in order.
        dtype: of its floats.
        has_free_sizes: whether it may be run with other sizes than those it was cut with.
        bytes_per_point: what all values inside it take that depend on some of its inputs, by their names.
        note: called for every run.
    """

    def __init__(
        self,
        reference: Reference,
        names: Sequence[str],
        dtype: Any,
        *,
        has_free_sizes: bool,
        bytes_per_point: Callable[[Collection[str]], int],
        note: Callable[[], None],
    ) -> None:
        self._reference, self._names, self.dtype, self._note = reference, names, dtype, note
        self._has_free_sizes, self._bytes_per_point = has_free_sizes, bytes_per_point
        self._layouts: dict[int, Layout | None] = {}

    def one(self, values: Sequence[Array]) -> Array:
        """All float outputs at one point, in one vector of doubles."""
        return flat_floats(self._outputs(values))

    def num_at_once(self, values: Sequence[Array], index: int) -> int:
        """For how many points at once it is run, to differentiate by an input; always as many, or one."""
        size = values[index].size
        layout = self._layout(values, index) if size >= _MIN_ELEMENTS else None
        each = NUM_SHIFTS[self.dtype]
        if layout is None or layout.num_fitting < each:
            return 1
        # In groups as even as can be.
        num_groups = -(-each * size // min(layout.num_fitting, max(_FEWEST_AT_ONCE, size)))
        return each * -(-size // num_groups)

    def together(self, values: Sequence[Array], index: int, rows: Array) -> Array:
        """All float outputs [K, m] where the input of this number has the values `rows` [K, *shape]."""
        layout = self._layouts[index]
        assert layout is not None
        outputs = _floats(self._joint(values, index, rows, layout.inputs))
        parts = [
            _apart(own, axis, len(rows)).reshape(len(rows), -1)
            for own, axis in zip(outputs, layout.outputs, strict=True)
        ]
        return np.concatenate(parts, 1).astype(np.float64)

    def is_one_for_all(self, index: int) -> Array:
        """Which elements of all float outputs [m] have been the same for whatever the input was."""
        layout = self._layouts[index]
        assert layout is not None
        return layout.is_one_for_all

    def refuse(self, index: int) -> None:
        """Never run it for many points at once again, to differentiate by this input."""
        self._layouts[index] = None

    def _outputs(self, values: Sequence[Array]) -> list[Array]:
        self._note()
        found = self._reference.run(dict(zip(self._names, values, strict=True)))
        return [found[name] for name in self._reference.output_names]

    def _joint(self, values: Sequence[Array], index: int, rows: Array, axes: Axes) -> list[Array]:
        given = list(values)
        for number, axis in axes.items():
            own = given[number]
            copies = rows if number == index else np.broadcast_to(own, (len(rows), *own.shape))
            given[number] = _joined(copies, axis)
        return self._outputs(given)

    def _layout(self, values: Sequence[Array], index: int) -> Layout | None:
        if index not in self._layouts:
            self._layouts[index] = self._found(values, index) if self._has_free_sizes else None
        return self._layouts[index]

    def _found(self, values: Sequence[Array], index: int) -> Layout | None:
        """A layout in which every copy comes out as it does by itself."""
        rows = _unlike(values[index])
        try:
            alone = [_floats(self._outputs(_with(values, index, row))) for row in rows]
        except AnalysisError:
            return None
        for axes in itertools.islice(_candidates(values, index), _MAX_TRIES):
            try:
                joint = _floats(self._joint(values, index, rows, axes))
            except AnalysisError:
                continue
            pairs = zip(joint, zip(*alone, strict=True), strict=True)
            outputs = [self._axis(own, singles) for own, singles in pairs]
            # Even where nothing moves, something comes out for each copy.
            if _MIXED not in outputs and set(outputs) != {None}:
                size = self._bytes_per_point([self._names[number] for number in axes])
                num_fitting = min(_MOST_AT_ONCE, _MAX_BYTES // max(1, size))
                is_one = [
                    np.full(own.size, axis is None) for own, axis in zip(alone[0], outputs, strict=True)
                ]
                return Layout(axes, tuple(outputs), num_fitting, np.concatenate(is_one))
        return None

    def _axis(self, joint: Array, alone: Sequence[Array]) -> int | None:
        """Along which axis an output has the copies; None: it is one for all; _MIXED: it is not theirs."""
        shape, expected = alone[0].shape, np.stack(alone)
        allowed = _AGREES[self.dtype] * float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
        axes: list[int | None] = [None, *range(len(shape))]
        for axis in axes:
            if joint.shape == _joined_shape(shape, axis, len(alone)):
                apart = _apart(joint, axis, len(alone))
                if np.allclose(apart, expected, rtol=0, atol=allowed, equal_nan=True):
                    return axis
        return _MIXED


def flat_floats(outputs: Sequence[Array]) -> Array:
    """All float outputs in one vector of doubles."""
    parts = [np.asarray(value, dtype=np.float64).reshape(-1) for value in _floats(outputs)]
    return np.concatenate(parts) if parts else np.zeros(0)


def _candidates(values: Sequence[Array], index: int) -> Iterator[Axes]:
    """Inputs to put copies together of, with the axis of each: likelier ones first, as batches of one."""
    shape = values[index].shape
    for axis in sorted(range(len(shape)), key=lambda axis: (shape[axis] != 1, axis)):
        size = shape[axis]
        others = {number: value.shape for number, value in enumerate(values) if number != index}
        same = {number: axis for number, own in others.items() if own[axis : axis + 1] == (size,)}
        first = {number: own.index(size) for number, own in others.items() if size in own}
        found: list[Axes] = []
        for axes in ({}, same, first):
            if axes not in found:
                found.append(axes)
                yield {index: axis, **axes}


def _unlike(point: Array) -> Array:
    """A few points near one, no two the same in any element."""
    finite = np.abs(point[np.isfinite(point)])
    scale = max(float(finite.mean()) if finite.size else 1.0, 1e-2)
    random = np.random.default_rng(0).standard_normal((_NUM_TRIED, *point.shape))
    return np.asarray((point + _NEAR * scale * random).astype(point.dtype))


def _with(values: Sequence[Array], index: int, value: Array) -> list[Array]:
    return [*values[:index], np.asarray(value), *values[index + 1 :]]


def _floats(outputs: Sequence[Array]) -> list[Array]:
    return [value for value in outputs if value.dtype.kind == "f"]


def _joined(copies: Array, axis: int) -> Array:
    """Copies [K, *shape] along an axis of theirs."""
    shape = copies.shape[1:]
    return np.moveaxis(copies, 0, axis).reshape(_joined_shape(shape, axis, len(copies)))


def _joined_shape(shape: Sequence[int], axis: int | None, count: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(shape)
    return *shape[:axis], count * shape[axis], *shape[axis + 1 :]


def _apart(joint: Array, axis: int | None, count: int) -> Array:
    """Copies [K, *shape] of what has them along an axis, or is one for all."""
    if axis is None:
        return np.broadcast_to(joint, (count, *joint.shape))
    shape = joint.shape
    return np.moveaxis(joint.reshape(*shape[:axis], count, -1, *shape[axis + 1 :]), axis, 0)
