"""What is computed twice from equal single numbers is computed once, as where an exporter shares these."""

from __future__ import annotations

from collections.abc import Hashable

import onnx_ir as ir

from lsc_graph.canonical.rewiring import inner_graphs, put_in_place
from lsc_graph.recurrence.unrolled.constants import Constants, attributes_of

_DRAWS = frozenset(("Bernoulli", "Dropout", "Multinomial", "RandomNormalLike", "RandomUniformLike"))


def merge_over_equal_numbers(graph: ir.Graph) -> None:
    """Let whatever reads a node read an earlier one that does the same to the same, in place.

    The numbers themselves stay apart: equal ones may be settings of different layers.
    """
    constants = Constants(graph, ties_numbers=True)
    first: dict[Hashable, ir.Node] = {}
    for node in list(graph):
        is_constant = all(value is None or value in constants for value in node.inputs)
        if is_constant or node.op_type in _DRAWS or len(node.outputs) != 1 or inner_graphs(node):
            continue
        earlier = first.setdefault(_key(node, constants), node)
        if earlier is not node and not node.outputs[0].is_graph_output():
            put_in_place(node.outputs[0], earlier.outputs[0])
            graph.remove(node, safe=True)


def _key(node: ir.Node, constants: Constants) -> Hashable:
    inputs = tuple(_operand(value, constants) if value is not None else None for value in node.inputs)
    return (node.domain, node.op_type, attributes_of(node), inputs)


def _operand(value: ir.Value, constants: Constants) -> Hashable:
    is_number = value in constants and constants.is_weight(value) and constants.num_elements(value) == 1
    return ("number", value.dtype, constants.key(value)) if is_number else id(value)
