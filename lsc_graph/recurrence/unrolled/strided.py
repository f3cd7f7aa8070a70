"""Uses of a weight that reach back over several steps, as of h[t-2]: no chain, but slices number them.

Each use is computed from the one that many steps before, so that the uses are as many chains side by side.
They are steps of one recurrence where each of them first meets another slice of one sequence, without gaps,
whether the sequence is read from its start or from its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from lsc_graph.recurrence.unrolled.chains import MIN_STEPS, Chain, Order, own_levels, repeated_uses
from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.recurrence.unrolled.substeps import Substeps


def find_strided_chains(order: Order, constants: Constants, substeps: Substeps) -> Iterator[Chain]:
    """Uses of one matrix, in the order of the slices that they meet."""
    for constant, nodes in repeated_uses(order, constants):
        if len(nodes) < MIN_STEPS or not constants.is_matrix(constant):
            continue
        if not 1 < max(own_levels(order, nodes)) < len(nodes):
            continue
        for behind in (*substeps.behind(), *substeps.behind_in_reverse()):
            numbers = [_first_met(node, behind) for node in nodes]
            known = {number for number in numbers if number is not None}
            if len(known) == len(nodes) == max(known) - min(known) + 1:
                ordered = sorted(zip(numbers, nodes, strict=True), key=lambda pair: pair[0] or 0)
                yield Chain(constant, tuple(node for _, node in ordered), is_strided=True)
                break


def _first_met(node: ir.Node, behind: Mapping[ir.Value, int]) -> int | None:
    """The first slice after those that a node depends on which what it gives is joined with."""
    own = _newest(node.outputs, behind)
    met, seen, pending = [], set[ir.Node](), [node]
    while pending:
        for value in pending.pop().outputs:
            for reader in {use.node for use in value.uses()} - seen:
                seen.add(reader)
                newest = _newest(reader.outputs, behind)
                if newest > own:
                    met.append(newest)
                else:
                    pending.append(reader)
    return min(met, default=None)


def _newest(values: Sequence[ir.Value], behind: Mapping[ir.Value, int]) -> int:
    return max((behind.get(value, 0).bit_length() - 1 for value in values), default=-1)
