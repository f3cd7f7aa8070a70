"""A value put together from parts of others: elements at given places, as cuts, turns and joins."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.loops.decided import Array, array_of
from lsc_graph.recurrence.writer import GraphWriter
from lsc_graph.recurrence.written.places import count_up

Shape = tuple[int, ...]


class NotInPiecesError(Exception):
    """The elements are no cuts of their sources, or too many pieces would be needed."""


class Builder:
    """Writes nodes that compute values from parts of `sources`.

    Args:
        sources: what elements may come from, by number.
        writer: collects the nodes.
        max_pieces: how many joined pieces are too many.
    """

    def __init__(self, sources: Sequence[ir.Value], writer: GraphWriter, max_pieces: int) -> None:
        self.sources, self.writer, self.left = sources, writer, max_pieces

    def build(self, which: Array, places: Array) -> ir.Value:
        """A value of the arrays' shape: each element from the source of its number, at its place.

        Raises:
            NotInPiecesError: there is no such value of cuts, turns and joins.
        """
        self.left -= 1
        if self.left < 0:
            raise NotInPiecesError
        first = which.reshape(-1)[0]
        if (which == first).all():
            return self._of_one(self.sources[int(first)], places)
        axis = _joining_axis(which)
        pieces = [
            piece
            for start, end in _runs(which, axis)
            for piece in self._along(which, places, axis, range(start, end))
        ]
        return self.writer.op("Concat", pieces, "joined", which.shape, pieces[0].dtype, axis=axis)

    def _along(self, which: Array, places: Array, axis: int, indices: range) -> list[ir.Value]:
        """Some indices of an axis as one piece, or one piece for each."""
        try:
            rows = np.arange(indices.start, indices.stop)
            return [self.build(which.take(rows, axis), places.take(rows, axis))]
        except NotInPiecesError:
            if len(indices) == 1:
                raise
            return [piece for k in indices for piece in self._along(which, places, axis, range(k, k + 1))]

    def _of_one(self, source: ir.Value, places: Array) -> ir.Value:
        number = uniform_number(source)
        if number is not None:
            return self.writer.constant(np.full(places.shape, number, dtype=number.dtype), "constant")
        shape = static_shape(source) or ()
        if places.size == math.prod(shape) and count_up(places.reshape(-1)):
            return self._shaped(source, places.shape)
        order, counts = _turned_order(places)
        box = places.reshape(counts).transpose(order) if counts else places.reshape(-1)
        cut = self._cut(source, shape, box.reshape(-1))
        if order != sorted(order):
            turned = [counts[axis] for axis in order]
            back = [order.index(axis) for axis in range(len(order))]
            cut = self._shaped(cut, turned)
            cut = self.writer.op("Transpose", [cut], "turned", counts, source.dtype, perm=back)
        return self._shaped(cut, places.shape)

    def _cut(self, source: ir.Value, shape: Shape, places: Array) -> ir.Value:
        """The elements at these places, which must be some indices of each axis."""
        picks = [_in_order(own) for own in np.unravel_index(places, shape)]
        sizes = [len(pick) for pick in picks]
        whole = np.ravel_multi_index(np.ix_(*picks), shape).reshape(-1) if picks else np.zeros(1, int)
        if math.prod(sizes) != places.size or not np.array_equal(whole, places):
            raise NotInPiecesError
        for axis, pick in enumerate(picks):
            if len(pick) == shape[axis] and count_up(pick):
                continue
            known = [*sizes[: axis + 1], *shape[axis + 1 :]]
            source = self._picked(source, axis, pick, known)
        return source

    def _picked(self, source: ir.Value, axis: int, pick: Array, shape: Sequence[int]) -> ir.Value:
        if count_up(pick - pick[0]):
            bounds = [self.writer.integers([int(k)]) for k in (pick[0], pick[-1] + 1, axis)]
            return self.writer.op("Slice", [source, *bounds], "cut", shape, source.dtype)
        where = self.writer.integers([int(k) for k in pick])
        return self.writer.op("Gather", [source, where], "cut", shape, source.dtype, axis=axis)

    def _shaped(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        if static_shape(value) == tuple(shape):
            return value
        return self.writer.op("Reshape", [value, self.writer.integers(shape)], "shaped", shape, value.dtype)


def uniform_number(value: ir.Value) -> np.generic | None:
    """The number that a constant holds everywhere, as a buffer of zeros does."""
    node = value.producer()
    if node is not None and node.op_type == "ConstantOfShape":
        given = node.attributes.get("value")
        return np.float32(0) if given is None else given.as_tensor().numpy().reshape(-1)[0]
    if node is not None and node.op_type == "Expand" and node.inputs[0] is not None:
        return uniform_number(node.inputs[0])
    array = array_of(value)
    if array is None or not array.size or (array != array.reshape(-1)[0]).any():
        return None
    number: np.generic = array.reshape(-1)[0]
    return number


def _in_order(indices: Array) -> Array:
    """Indices without repetitions, in the order in which they come."""
    return indices[np.sort(np.unique(indices, return_index=True)[1])]


def _joining_axis(which: Array) -> int:
    """The first axis along which every index has one source; else the first that extends at all."""
    long = [axis for axis, size in enumerate(which.shape) if size > 1]
    for axis in long:
        others = tuple(at for at in range(which.ndim) if at != axis)
        if (which.min(others) == which.max(others)).all():
            return axis
    return long[0]


def _runs(which: Array, axis: int) -> list[tuple[int, int]]:
    """Ranges of indices of an axis that come from the same source, or are alone."""
    rows = np.moveaxis(which, axis, 0).reshape(which.shape[axis], -1)
    found: list[tuple[int, int]] = []
    for index, row in enumerate(rows):
        before = rows[found[-1][0]] if found else None
        if before is not None and (row == row[0]).all() and (before == row[0]).all():
            found[-1] = (found[-1][0], index + 1)
        else:
            found.append((index, index + 1))
    return found


def _turned_order(places: Array) -> tuple[list[int], list[int]]:
    """The axes by falling stride, and their sizes, axes of size one left out.

    Raises:
        NotInPiecesError: an axis repeats what is there already.
    """
    squeezed = places.reshape([size for size in places.shape if size > 1])
    strides = [
        abs(int(squeezed.take(1, axis).reshape(-1)[0] - squeezed.reshape(-1)[0]))
        for axis in range(squeezed.ndim)
    ]
    order = sorted(range(squeezed.ndim), key=lambda axis: -strides[axis])
    if 0 in strides:
        raise NotInPiecesError
    return order, list(squeezed.shape)
