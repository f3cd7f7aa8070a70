"""What a first step computes from given states alone, and others read too, is left where it is."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from lsc_graph.recurrence.unrolled.chains import Order
from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.recurrence.unrolled.emissions import outside_uses, replaced_nodes
from lsc_graph.recurrence.unrolled.steps import Steps
from lsc_graph.recurrence.writer import GraphWriter, replace_output


def compute_start_values_apart(steps: Steps, order: Order, constants: Constants, writer: GraphWriter) -> None:
    """Repeat it for those others, which are no readers of a sequence then.

    Two recurrences that start from one state begin with one operator that both need, where what is computed
    twice is computed once: the second of them would lose its first step to the first.
    """
    inside = replaced_nodes(steps)
    makers = {node for lane in steps.nodes.values() if (node := lane[0]) is not None}
    for key, lane in steps.values.items():
        first = lane[0] if key not in steps.after.values() else None
        if first is None or not outside_uses(first, inside) or any(_outside(lane[1:], inside)):
            continue
        nodes = _from_states_alone(first, makers, steps, order, constants)
        if nodes:
            known: dict[ir.Value, ir.Value] = {}
            writer.repeat(nodes, known)
            replace_output(first, known[first])


def _outside(images: Sequence[ir.Value | None], inside: set[ir.Node]) -> list[bool]:
    return [outside_uses(image, inside) for image in images if image is not None]


def _from_states_alone(
    value: ir.Value, makers: set[ir.Node], steps: Steps, order: Order, constants: Constants
) -> list[ir.Node] | None:
    """The nodes that lead there from what the first step takes over, in order; None if they read more.

    Where a weight is read, another recurrence would lose its first use, unless nothing but constants enters.
    """
    starts = {lane[0] for lane in steps.states.values()}
    found, pending = set[ir.Node](), [value]
    while pending:
        own = pending.pop()
        node = own.producer()
        is_read = own in constants and node not in makers
        if own in starts or (is_read and (value in constants or not constants.is_matrix(own))):
            continue
        if node is None or node not in makers:
            return None
        if node not in found:
            found.add(node)
            pending += [source for source in node.inputs if source is not None]
    return sorted(found, key=order.index.__getitem__)
