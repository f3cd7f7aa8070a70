"""What goes on behind the last step as a step would, but reads more: then the steps are not alike."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx_ir as ir

from lsc_graph.recurrence.unrolled.chains import Order
from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.recurrence.unrolled.lanes import StepsDifferError, is_alike
from lsc_graph.recurrence.unrolled.steps import Steps


def check_end(steps: Steps, order: Order, constants: Constants) -> None:
    """Refuse steps whose last states are read as a step reads them, by nodes that are no step's.

    A constant stands there in the steps, and something computed in them behind the last one: a delay that
    has only begun, as of h[t-2] at the third step from zeros.

    Raises:
        StepsDifferError: there is such a node.
    """
    inside = {node for images in steps.nodes.values() for node in images if node is not None}
    depending = order.levels(inside)
    for key, after in steps.after.items():
        last = steps.images(after)[-1]
        readers = [(use.node, use.idx) for use in key.uses() if use.node in steps.nodes]
        for use in last.uses() if last is not None else ():
            if use.node not in inside and any(
                index == use.idx and _reads_more(use.node, own, constants, depending)
                for own, index in readers
            ):
                reason = f"{use.node.op_type} {use.node.name} goes on as the next step would, but reads more"
                raise StepsDifferError((), reason)


def _reads_more(node: ir.Node, own: ir.Node, constants: Constants, depending: Collection[ir.Node]) -> bool:
    """Whether a node reads what depends on the steps where its like in a step reads a constant."""
    return is_alike(node, own) and any(
        mine in constants and other.producer() in depending for mine, other in _pairs(own, node)
    )


def _pairs(own: ir.Node, node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    for mine, other in zip(own.inputs, node.inputs, strict=True):
        if mine is not None and other is not None:
            yield mine, other
