"""Where the elements of a value come from: behind what only moves elements, or writes at known places.

Elements are counted in row-major order, so a place is one integer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.layered.rows import taken_ranges
from lsc_graph.recurrence.loops.decided import Array, array_of

Shape = tuple[int, ...]
MAX_ELEMENTS = 2**27
"""How many elements are looked up in one model."""


@dataclass(frozen=True)
class Part:
    """The elements `where` of a value are those at `places` of `source`."""

    source: ir.Value
    where: Array
    places: Array


Move = Callable[[ir.Node, ir.Value, Array], "list[Part] | None"]
"""Parts that the given places of a node's output come from, if the node only moves elements."""


def _parts(source: ir.Value | None, places: Array, where: Array | None = None) -> list[Part]:
    assert source is not None
    return [Part(source, np.arange(places.size) if where is None else where, places)]


def _same(node: ir.Node, value: ir.Value, places: Array) -> list[Part] | None:
    """The same elements in the same order, perhaps in another shape."""
    one, other = static_shape(node.inputs[0]), static_shape(value)
    if one is None or other is None or math.prod(one) != math.prod(other):
        return None
    return _parts(node.inputs[0], places)


def _picked(source: ir.Value, shape: Shape, picks: list[Array], places: Array) -> list[Part]:
    """Out of each axis of a source the indices that are picked; `shape` is that of the result."""
    coordinates = np.unravel_index(places, [len(pick) for pick in picks])
    found = [pick[own] for pick, own in zip(picks, coordinates, strict=True)]
    return _parts(source, np.ravel_multi_index(found, shape))


def _cut(node: ir.Node, value: ir.Value, places: Array) -> list[Part] | None:
    source = node.inputs[0]
    shape = static_shape(source)
    if source is None or not shape or static_shape(value) is None:
        return None
    ranges = taken_ranges(node, value, shape)
    return None if ranges is None else _picked(source, shape, [np.array(own) for own in ranges], places)


def _gathered(node: ir.Node, value: ir.Value, places: Array) -> list[Part] | None:
    source, indices = node.inputs[0], array_of(node.inputs[1])
    shape = static_shape(source)
    if source is None or not shape or indices is None:
        return None
    axis = node.attributes.get_int("axis", 0) % len(shape)
    picks = [np.arange(size) for size in shape]
    picks[axis] = indices.reshape(-1) % shape[axis]
    return _picked(source, shape, picks, places)


def _transposed(node: ir.Node, value: ir.Value, places: Array) -> list[Part] | None:
    shape, own = static_shape(node.inputs[0]), static_shape(value)
    if not shape or own is None:
        return None
    order = list(node.attributes.get_ints("perm", list(range(len(shape)))[::-1]))
    coordinates = np.unravel_index(places, own)
    before = [coordinates[order.index(axis)] for axis in range(len(shape))]
    return _parts(node.inputs[0], np.ravel_multi_index(before, shape))


def _joined(node: ir.Node, value: ir.Value, places: Array) -> list[Part] | None:
    shape, shapes = static_shape(value), [static_shape(piece) for piece in node.inputs]
    if not shape or any(own is None for own in shapes):
        return None
    axis, start, found = node.attributes.get_int("axis", 0) % len(shape), 0, []
    coordinates = np.unravel_index(places, shape)
    for piece, own in zip(node.inputs, shapes, strict=True):
        assert own is not None
        along = coordinates[axis] - start
        where = np.flatnonzero((along >= 0) & (along < own[axis]))
        inside = [(along if at == axis else each)[where] for at, each in enumerate(coordinates)]
        if where.size:
            found += _parts(piece, np.ravel_multi_index(inside, own), where)
        start += own[axis]
    return found


_RESHAPES = frozenset(("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Expand"))
_MOVES: dict[str, Move] = {
    **dict.fromkeys(_RESHAPES, _same),
    **dict.fromkeys(("Slice", "Split"), _cut),
    "Gather": _gathered,
    "Transpose": _transposed,
    "Concat": _joined,
}
_WRITES = frozenset(("ScatterND", "ScatterElements"))


def count_up(places: Array) -> bool:
    """Whether places are 0, 1, 2 and so on."""
    return np.array_equal(places, np.arange(places.size))


def only_moves(node: ir.Node | None) -> bool:
    """Whether a node may be one that only moves elements."""
    return node is not None and node.op_type in _MOVES and node.domain in ("", "ai.onnx")


def is_write(node: ir.Node | None) -> bool:
    """Whether a node writes updates into what it reads first."""
    return node is not None and node.op_type in _WRITES and node.domain in ("", "ai.onnx")


def grows(node: ir.Node | None) -> bool:
    """Whether a node joins to what was joined before, or what it joins is joined to more."""
    if node is None or not is_join(node):
        return False
    others = [value.producer() for value in node.inputs if value is not None]
    others += [use.node for use in node.outputs[0].uses()]
    return any(is_join(other) and _axis(other) == _axis(node) for other in others if other is not None)


def is_join(node: ir.Node) -> bool:
    """Whether a node joins what it reads."""
    return node.op_type == "Concat" and node.domain in ("", "ai.onnx")


def _axis(join: ir.Node) -> int:
    axis, rank = join.attributes.get_int("axis", 0), len(join.outputs[0].shape or ())
    return axis % max(rank, 1)


@dataclass(frozen=True)
class Found:
    """A part of a value, as far back as it can be followed.

    Whether it was found behind a write, and in a tensor that is appended to.
    """

    part: Part
    is_written: bool = False
    is_appended: bool = False


@dataclass
class Writes:
    """What nodes write where, found once for each.

    `budget` is how many elements may still be looked up: then everything stays as it is.
    """

    budget: int
    _known: dict[ir.Node, tuple[Array, Array] | None] = field(default_factory=dict)
    _holding: dict[ir.Value, bool] = field(default_factory=dict)

    def sources(self, value: ir.Value) -> Iterator[Found]:
        """The values that all elements come from, as far back as they can be followed."""
        size = math.prod(static_shape(value) or (0,))
        pending = [Found(Part(value, np.arange(size), np.arange(size)))]
        while pending:
            own = pending.pop()
            self.budget -= own.part.places.size
            is_done = self.budget <= 0 or self._is_what_was_written(own)
            behind = self._behind(own.part.source, own.part.places) if not is_done else None
            if behind is None:
                yield own
                continue
            node = own.part.source.producer()
            is_written, is_appended = own.is_written or is_write(node), own.is_appended or grows(node)
            for part in behind:
                where = own.part.where[part.where]
                pending.append(Found(Part(part.source, where, part.places), is_written, is_appended))

    def _is_what_was_written(self, found: Found) -> bool:
        """Whether a part is a value that was written, whole and as it was computed: it is read as it is."""
        source, places = found.part.source, found.part.places
        node = source.producer()
        is_whole = places.size == math.prod(static_shape(source) or ()) and count_up(places)
        is_same = node is not None and node.op_type in _RESHAPES and only_moves(node)
        return (
            (found.is_written or found.is_appended) and is_whole and not is_same and not self._holds(source)
        )

    def _holds(self, value: ir.Value) -> bool:
        """Whether a value is, or is moved out of, one that is written into or appended to."""
        node = value.producer()
        if node is None or is_write(node) or grows(node):
            return node is not None
        if value not in self._holding:
            moved = node.inputs if is_join(node) else node.inputs[:1]
            self._holding[value] = only_moves(node) and any(self._holds(v) for v in moved if v is not None)
        return self._holding[value]

    def _behind(self, value: ir.Value, places: Array) -> list[Part] | None:
        node = value.producer()
        if node is None or not node.inputs or node.inputs[0] is None:
            return None
        if only_moves(node):
            return _MOVES[node.op_type](node, value, places)
        return self._written(node, places) if is_write(node) else None

    def _written(self, node: ir.Node, places: Array) -> list[Part] | None:
        if node not in self._known:
            self._known[node] = _targets(node)
        targets = self._known[node]
        if targets is None:
            return None
        order, sorted_targets = targets
        nearest = np.minimum(np.searchsorted(sorted_targets, places), sorted_targets.size - 1)
        is_hit = sorted_targets[nearest] == places
        hit, rest = np.flatnonzero(is_hit), np.flatnonzero(~is_hit)
        found = _parts(node.inputs[2], order[nearest[hit]], hit) if hit.size else []
        return found + (_parts(node.inputs[0], places[rest], rest) if rest.size else [])


def _targets(node: ir.Node) -> tuple[Array, Array] | None:
    """The places that a node writes, sorted, and which element of the updates goes to each.

    None where they are not known, or one is written twice: then nothing says which comes last.
    """
    shape, indices, updates = static_shape(node.inputs[0]), array_of(node.inputs[1]), node.inputs[2]
    is_plain = node.attributes.get_string("reduction", "none") == "none"
    if not shape or indices is None or not indices.size or not is_plain or static_shape(updates) is None:
        return None
    places = (_scattered if node.op_type == "ScatterND" else _scattered_along)(node, indices, shape)
    if places is None or places.size != math.prod(static_shape(updates) or ()):
        return None
    order = np.argsort(places, kind="stable")
    found = places[order]
    return None if (found[1:] == found[:-1]).any() else (order, found)


def _scattered(node: ir.Node, indices: Array, shape: Shape) -> Array | None:
    depth = indices.shape[-1]
    sizes = np.array(shape[:depth])
    rows = indices.reshape(-1, depth)
    inner = math.prod(shape[depth:])
    if not depth or len(rows) * inner > MAX_ELEMENTS or ((rows < -sizes) | (rows >= sizes)).any():
        return None
    starts = np.ravel_multi_index(list((rows % sizes).T), shape[:depth]) * inner
    return np.asarray((starts[:, None] + np.arange(inner)).reshape(-1))


def _scattered_along(node: ir.Node, indices: Array, shape: Shape) -> Array | None:
    axis = node.attributes.get_int("axis", 0) % len(shape)
    if ((indices < -shape[axis]) | (indices >= shape[axis])).any():
        return None
    coordinates: list[Array] = list(np.indices(indices.shape))
    coordinates[axis] = indices % shape[axis]
    return np.ravel_multi_index(coordinates, shape).reshape(-1)
