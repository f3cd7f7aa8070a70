"""What a read-out of a step may read beside the step: slices of sequences that are there before the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from lsc_graph.recurrence.unrolled.chains import Order
from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.recurrence.unrolled.slices import leading_slices, only_slices, slices_behind, time_slice


class OwnSlices:
    """Tells which values are a slice for each step, or computed from one.

    What other recurrences give does not count, unless the steps read it anyway: a join of both directions is
    part of neither.

    Args:
        read: what the steps read from outside.
        order, constants: of the graph.
    """

    def __init__(self, read: Sequence[ir.Value], order: Order, constants: Constants) -> None:
        self.order, self.constants = order, constants
        self.loops = frozenset[ir.Node]().union(*(self._loops(value) for value in read))

    def _loops(self, value: ir.Value) -> frozenset[ir.Node]:
        node = value.producer()
        return self.order.loops.get(node, frozenset()) if node is not None else frozenset()

    def are(self, column: Mapping[int, ir.Value | None]) -> bool:
        """Whether values, by the numbers of the steps, are made from slices that follow each other."""
        values = {k: value for k, value in column.items() if value is not None}
        if len(values) < len(column) or any(self._loops(value) - self.loops for value in values.values()):
            return False
        found = {k: slices_behind(value, self.constants) for k, value in values.items()}
        return any(True for _ in leading_slices(found))


def breaks_off(column: Mapping[int, ir.Value | None], k: int, constants: Constants) -> bool:
    """Whether value `k` is not the next slice, though the ones just before it are one slice after another."""
    values = [column.get(index) for index in (k - 2, k - 1, k)]
    known = [value for value in values if value is not None and value not in constants]
    if len(known) < len(values):
        return False
    taken = [time_slice(value, constants) for value in known]
    places = [(one.source, one.axis) if one is not None else None for one in taken]
    if None not in places and places[0] == places[1] != places[2]:
        return True
    slices = [only_slices(value, constants) for value in known]
    shared = set.intersection(*map(set, slices))
    triples = [[own[place] for own in slices] for place in shared]
    return any(abs(b - a) == 1 and c - b != b - a for a, b, c in triples)
