"""Graph inputs that recurrent operators start from, and graph outputs that they end in: the same state.

What a model hands to its operators as first states, and hands out as their final ones, is carried from call
to call, whatever its name is, and however the states of several operators are packed into one tensor.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

_State = tuple[ir.Node, int]
"""A recurrent operator, and which of its states."""

_FUSED_INITIAL = {"RNN": (5,), "GRU": (5,), "LSTM": (5, 6)}
_MOVING = frozenset(
    {"Cast", "Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze"}
    | {"Transpose", "Unsqueeze"}
)
_STANDARD = ("", "ai.onnx")


def states_of_operators(graph: ir.Graph) -> tuple[tuple[str, str], ...]:
    """Pairs (input, output) of a graph: initial states of some operators, and final states of the same.

    Args:
        graph: the main graph, before its recurrent operators are rewritten.
    """
    finals = _final_states(graph)
    ends = {str(output.name): _ends(output, finals) for output in graph.outputs}
    pairs = []
    for value in graph.inputs:
        starts = _starts(value)
        matching = [name for name, states in ends.items() if states and states == starts]
        if len(matching) == 1:
            pairs.append((str(value.name), matching[0]))
    return tuple(pairs)


def initial_states(node: ir.Node) -> tuple[int, ...]:
    """Which inputs of an operator are initial states."""
    if node.domain not in _STANDARD:
        return ()
    if node.op_type == "Scan":
        return tuple(range(len(node.inputs) - node.attributes.get_int("num_scan_inputs", 0)))
    if node.op_type == "Loop":
        return tuple(range(2, len(node.inputs)))
    return _FUSED_INITIAL.get(node.op_type, ())


def _final_states(graph: ir.Graph) -> dict[ir.Value, _State]:
    """Values that are final states: Y_h and Y_c, and what Scan and Loop return first."""
    found: dict[ir.Value, _State] = {}
    for node in graph:
        first = 1 if node.op_type in _FUSED_INITIAL else 0
        for state in range(len(initial_states(node))):
            if first + state < len(node.outputs):
                found[node.outputs[first + state]] = (node, state)
    return found


def _starts(value: ir.Value) -> set[_State]:
    """The states whose initial values a value is, or is a part of."""
    found: set[_State] = set()
    pending, seen = [value], {value}
    while pending:
        for use in pending.pop().uses():
            initial = initial_states(use.node)
            if use.idx in initial:
                found.add((use.node, initial.index(use.idx)))
            elif _is_moving(use.node):
                fresh = [output for output in use.node.outputs if output not in seen]
                seen.update(fresh)
                pending += fresh
    return found


def _ends(value: ir.Value, finals: dict[ir.Value, _State]) -> set[_State]:
    """The states whose final values a value consists of; none if it consists of anything else, too."""
    found: set[_State] = set()
    pending = [value]
    while pending:
        source = pending.pop()
        if source in finals:
            found.add(finals[source])
            continue
        node = source.producer()
        if node is None or not _is_moving(node):
            return set()
        pending += list(_moved(node))
    return found


def _is_moving(node: ir.Node) -> bool:
    return node.domain in _STANDARD and node.op_type in _MOVING


def _moved(node: ir.Node) -> Iterator[ir.Value]:
    """What a moving operator moves: not where to."""
    sources = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    return (value for value in sources if value is not None)
