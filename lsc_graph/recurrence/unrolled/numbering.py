"""Which number a step has: that of the slice that it reads of a sequence with one for every step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import onnx_ir as ir

from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.recurrence.unrolled.slices import Place, leading_slices, size_along, slices_behind, time_slice


class Numbering:
    """Sequences that steps read one slice after another, and from which slice to which.

    Args:
        columns: what each operation reads from outside, by the operation's own numbers of steps.
        constants: of the graph.
    """

    def __init__(self, columns: Iterable[Mapping[int, ir.Value]], constants: Constants) -> None:
        self.constants = constants
        self._slices: dict[ir.Value, dict[Place, set[int]]] = {}
        ranges: defaultdict[Place, set[int]] = defaultdict(set)
        for column in columns:
            for place, sign, offset in self._leading(column):
                ranges[place].update(sign * (offset + key) for key in column)
        self._ranges = {place: (min(found), max(found)) for place, found in ranges.items()}
        self._sizes: dict[Place, int | None] = {}

    def offsets(self, column: Mapping[int, ir.Value], num_steps: int) -> set[int]:
        """What to add to an operation's own numbers to get those of the steps, if there are so many steps.

        The slices have to follow each other, forward or backward, along an axis that is `num_steps` long, or
        of which the steps read as many.
        """
        found = set()
        for place, sign, offset in self._leading(column):
            first, last = self._ranges.get(place, (0, -1))
            if self._size(place) == num_steps:
                first, last = 0, num_steps - 1
            if last - first + 1 == num_steps:
                found.add(offset - first if sign == 1 else last + offset)
        return found

    def _size(self, place: Place) -> int | None:
        """How long a sequence is; None if a loop gives it, and nobody reads the slice of its last step.

        Steps that were written out may have lacked it: the loop that took their place has it anyway.
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
        ends = (0, (size_along(source, axis) or 1) - 1)
        first, last = ends[::-1] if _is_written_backwards(node, source) else ends
        return first in read and last not in read

    def _leading(self, column: Mapping[int, ir.Value]) -> Iterator[tuple[Place, int, int]]:
        return leading_slices({key: self._behind(value) for key, value in column.items()})

    def _behind(self, value: ir.Value) -> dict[Place, set[int]]:
        if value not in self._slices:
            self._slices[value] = slices_behind(value, self.constants)
        return self._slices[value]


def _is_written_backwards(scan: ir.Node, sequence: ir.Value) -> bool:
    num_states = len(scan.inputs) - scan.attributes.get_int("num_scan_inputs", 0)
    directions = scan.attributes.get_ints("scan_output_directions", None) or ()
    return dict(enumerate(directions, num_states)).get(sequence.index() or 0) == 1
