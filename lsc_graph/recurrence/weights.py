"""What one step of a recurrence consists of: its nodes, and the tensors of the file that it trains."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from lsc_graph.canonical.origins import label_of, origin_of, place_of
from lsc_graph.recurrence.dataflow import body_values, inputs_of
from lsc_graph.recurrence.site import RecurrentSite
from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.results import StepNode

_MIN_ELEMENTS = 2
_NO_STEP = ("Identity", "Constant")


def step_nodes(site: RecurrentSite) -> tuple[StepNode, ...]:
    """The nodes that the new states of one step are computed by, in order, copies and constants aside."""
    behind = set(_behind(_new_states(site), is_step=True)[0])
    own = (node for node in site.body.graph if node in behind and node.op_type not in _NO_STEP)
    return tuple(StepNode(_called(node, site), node.op_type) for node in own)


def _called(node: ir.Node, site: RecurrentSite) -> str:
    """What a node was called in the file: of unrolled steps, the prefix with their name is ours."""
    return (node.name or str(node.outputs[0].name)).removeprefix(f"{site.node}.step.")


def trained_tensors(main: ir.Graph, site: RecurrentSite) -> tuple[str, ...]:
    """Names in the file of the floating-point tensors that the new states are computed from.

    Steps that read none of their own, as those of selective state spaces, are trained through the sequences
    that they read: then it is what these are computed from, as far as the recurrences before.

    Args:
        main: the graph that the site captures values from.
        site: the recurrence.
    """
    _, found = _behind(_new_states(site), is_step=True)
    outer = {**dict(main.initializers.items()), **body_values(main)}
    captured = [outer[main_name] for name, main_name in site.captures.items() if name in _names(found)]
    constants = Constants(main)
    read = [outer[s.main] for s in site.inputs if s.body in _names(found) and s.main in outer]
    captured += [value for value in read if value in constants]
    _, beyond = _behind(captured)
    tensors = [value for value in (*found, *captured, *beyond) if _is_trained(value)]
    if not tensors:
        tensors = [value for value in _behind(read)[1] if _is_trained(value)]
    return tuple(dict.fromkeys(_name_in_file(value) for value in tensors))


def _new_states(site: RecurrentSite) -> list[ir.Value]:
    values = body_values(site.body.graph)
    return [values[state.after] for state in site.states]


def _names(values: Iterable[ir.Value]) -> set[str]:
    return {str(value.name) for value in values}


def _behind(values: Iterable[ir.Value], *, is_step: bool = False) -> tuple[list[ir.Node], list[ir.Value]]:
    """The nodes that values are computed by, and everything that these read.

    Other recurrences end it, unless they are part of one step.
    """
    nodes: dict[ir.Node, None] = {}
    read: dict[ir.Value, None] = {}
    pending = list(values)
    while pending:
        node = pending.pop().producer()
        if node is None or node in nodes or (node.op_type == "Scan" and not is_step):
            continue
        nodes[node] = None
        sources = list(inputs_of(node))
        read |= dict.fromkeys(sources)
        pending += sources
    return list(nodes), list(read)


def _is_trained(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or not value.is_initializer():
        return False
    return tensor.dtype.is_floating_point() and tensor.size >= _MIN_ELEMENTS


def _name_in_file(value: ir.Value) -> str:
    origin = origin_of(value)
    return label_of(origin[-1:], place_of(value)) if origin else str(value.name)
