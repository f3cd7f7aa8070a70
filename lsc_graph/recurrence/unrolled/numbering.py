"""Which number a step has: that of the slice that it reads of a sequence with one for every step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import onnx_ir as ir

from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.recurrence.unrolled.slices import only_slices, size_along, time_slice

Place = tuple[ir.Value, int]
_Indices = Mapping[int, int]


class Numbering:
    """Sequences that steps read one slice after another, and from which slice to which.

    Args:
        columns: what each operation reads from outside, by the operation's own numbers of steps.
        constants: of the graph.
    """

    def __init__(self, columns: Iterable[Mapping[int, ir.Value]], constants: Constants) -> None:
        self.constants = constants
        self._slices: dict[ir.Value, dict[Place, int]] = {}
        ranges: defaultdict[Place, set[int]] = defaultdict(set)
        for column in columns:
            for place, indices in self._places(column).items():
                if _offset(indices, 1) is not None or _offset(indices, -1) is not None:
                    ranges[place].update(indices.values())
        self._ranges = {place: (min(found), max(found)) for place, found in ranges.items()}
        self._sizes: dict[Place, int | None] = {}

    def offsets(self, column: Mapping[int, ir.Value], num_steps: int) -> set[int]:
        """What to add to an operation's own numbers to get those of the steps, if there are so many steps.

        The slices have to follow each other, forward or backward, along an axis that is `num_steps` long, or
        of which the steps read as many.
        """
        found = set()
        for place, indices in self._places(column).items():
            first, last = self._ranges.get(place, (0, -1))
            if self._size(place) == num_steps:
                first, last = 0, num_steps - 1
            if last - first + 1 == num_steps:
                ahead, back = _offset(indices, 1), _offset(indices, -1)
                found |= {ahead - first} if ahead is not None else set()
                found |= {last + back} if back is not None and ahead is None else set()
        return found

    def _size(self, place: Place) -> int | None:
        """How long a sequence is; None if a loop gives it, and nobody reads its last slice or its first.

        Steps that were written out may have lacked these: the loop that took their place has them anyway.
        """
        if place not in self._sizes:
            self._sizes[place] = None if self._is_cut_short(place) else size_along(*place)
        return self._sizes[place]

    def _is_cut_short(self, place: Place) -> bool:
        source, axis = place
        node, read = source.producer(), set[int]()
        if node is None or node.op_type != "Scan" or source.is_graph_output():
            return False
        for value in (value for use in source.uses() for value in use.node.outputs):
            taken = time_slice(value, self.constants)
            if taken is None or (taken.source, taken.axis) != place:
                return False
            read.add(taken.index)
        return not read.issuperset((0, (size_along(source, axis) or 1) - 1))

    def _places(self, column: Mapping[int, ir.Value]) -> dict[Place, dict[int, int]]:
        """The sequences of which each value is made from one slice, and from which one."""
        slices = {key: self._only_slices(value) for key, value in column.items()}
        places = set.intersection(*(set(own) for own in slices.values())) if slices else set()
        return {place: {key: own[place] for key, own in slices.items()} for place in places}

    def _only_slices(self, value: ir.Value) -> dict[Place, int]:
        if value not in self._slices:
            self._slices[value] = only_slices(value, self.constants)
        return self._slices[value]


def _offset(indices: _Indices, sign: int) -> int | None:
    """The difference between signed index and key, if it is the same everywhere."""
    found = {sign * index - key for key, index in indices.items()}
    return found.pop() if len(found) == 1 else None
