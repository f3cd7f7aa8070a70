"""A model that takes over given values where it computes its own: rounding grows no further than to these.

What a state of a loop is at each step, or any value of the main graph, comes in as an input beside what the
model itself makes of the given values before it, which goes out. A first state stays the model's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lsc_graph.running.reference import Array

_OWN = "/own"


@dataclass(frozen=True)
class LoopState:
    """A state of a Scan or Loop: what it starts from and ends as in the main graph, and what it is after each
    step [T, ...], in the order in which the steps are taken."""

    initial: str
    final: str
    values: Array


@dataclass
class Restarted:
    """The model, what it is given beside its own inputs, and what its further outputs should be."""

    proto: onnx.ModelProto
    given: dict[str, Array]
    expected: dict[str, Array]


def restarted(
    proto: onnx.ModelProto, values: Mapping[str, Array], loops: Sequence[Sequence[LoopState]]
) -> Restarted | None:
    """The model with values of its main graph given, and the states of its loops.

    Args:
        proto: the model; it is not changed.
        values: by their names in the main graph.
        loops: the floating-point states of each loop.

    Returns:
        None if a loop is not found, or carries other floating-point numbers from step to step.
    """
    found = Restarted(onnx.ModelProto(), {}, {})
    found.proto.CopyFrom(proto)
    for states in loops:
        place = _place_of(found.proto.graph, states)
        if place is None:
            return None
        before = [own for state in states for own in _give_state(found, found.proto.graph.node[place], state)]
        _insert(found.proto.graph, place, before)
    for name, value in values.items():
        _give_value(found, name, value)
    return found


def _place_of(graph: onnx.GraphProto, states: Sequence[LoopState]) -> int | None:
    """Where the loop stands that has these states, and no others of floating-point numbers."""
    names = {(state.initial, state.final) for state in states}
    for place, node in enumerate(graph.node):
        if node.op_type in ("Scan", "Loop"):
            body = _body(node)
            moving = {
                (node.input[own.place], node.output[own.place - own.skipped])
                for own in _carried(node)
                if body.input[own.place].name != body.output[own.new].name
                and _is_float(body.input[own.place])
            }
            if moving == names:
                return place
    return None


@dataclass(frozen=True)
class _Carried:
    """Where a loop carries a value: among its inputs and its body's, and among the body's outputs.

    Its outputs lack as many of the first inputs.
    """

    place: int
    new: int
    skipped: int


def _carried(node: onnx.NodeProto) -> list[_Carried]:
    if node.op_type == "Loop":
        return [_Carried(place, place - 1, 2) for place in range(2, len(node.input))]
    count = len(node.input) - _integer(node, "num_scan_inputs")
    return [_Carried(place, place, 0) for place in range(count)]


def _body(node: onnx.NodeProto) -> onnx.GraphProto:
    body: onnx.GraphProto = next(own.g for own in node.attribute if own.name == "body")
    return body


def _integer(node: onnx.NodeProto, name: str) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)


def _is_float(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.tensor_type.elem_type
    return kind in (TensorProto.UNDEFINED, TensorProto.FLOAT, TensorProto.DOUBLE)


def _give_state(found: Restarted, node: onnx.NodeProto, state: LoopState) -> list[onnx.NodeProto]:
    """Each step reads what is given, not what the one before it wrote: by these nodes before the loop."""
    body, graph = _body(node), found.proto.graph
    own = next(
        own
        for own in _carried(node)
        if (node.input[own.place], node.output[own.place - own.skipped]) == (state.initial, state.final)
    )
    value, after = body.input[own.place], body.output[own.new].name
    before, given, sequence = value.name, f"{state.final}/given", f"{state.final}/sequence"
    first, shape = f"{state.final}/first", f"{state.final}/shape"
    extra = onnx.ValueInfoProto()
    extra.CopyFrom(value)
    value.name = before + _OWN
    graph.initializer.append(numpy_helper.from_array(np.array([1, *state.values.shape[1:]], np.int64), shape))
    if node.op_type == "Loop":
        _insert(body, 0, [helper.make_node("Gather", [sequence, body.input[0].name], [before], axis=0)])
    else:
        body.input.append(extra)
        node.input.append(sequence)
        _lengthen(node, "scan_input_axes", "scan_input_directions")
        next(attribute for attribute in node.attribute if attribute.name == "num_scan_inputs").i += 1
    shown, steps = f"{after}/shown", f"{state.final}/steps"
    body.node.append(helper.make_node("Identity", [after], [shown]))
    body.output.append(onnx.ValueInfoProto(name=shown))
    body.output[-1].type.CopyFrom(extra.type)
    node.output.append(steps)
    _lengthen(node, "scan_output_axes", "scan_output_directions")
    _take(found, given, state.values[:-1])
    _show(found, steps, state.values)
    return [
        helper.make_node("Reshape", [state.initial, shape], [first]),
        helper.make_node("Concat", [first, given], [sequence], axis=0),
    ]


def _insert(graph: onnx.GraphProto, place: int, new: Sequence[onnx.NodeProto]) -> None:
    for offset, own in enumerate(new):
        graph.node.insert(place + offset, own)


def _lengthen(node: onnx.NodeProto, *names: str) -> None:
    """One more entry, of 0, in lists that the node has."""
    for attribute in node.attribute:
        if attribute.name in names:
            attribute.ints.append(0)


def _give_value(found: Restarted, name: str, value: Array) -> None:
    """What reads a value of the main graph reads what is given in its place."""
    for node in found.proto.graph.node:
        for index, output in enumerate(node.output):
            if output == name:
                node.output[index] = name + _OWN
    for output in found.proto.graph.output:
        if output.name == name:
            output.name = name + _OWN
    _take(found, name, value)
    _show(found, name + _OWN, value)


def _take(found: Restarted, name: str, value: Array) -> None:
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    found.proto.graph.input.append(helper.make_tensor_value_info(name, kind, value.shape))
    found.given[name] = value


def _show(found: Restarted, name: str, value: Array) -> None:
    if name not in {output.name for output in found.proto.graph.output}:
        found.proto.graph.output.append(onnx.ValueInfoProto(name=name))
    found.expected[name] = value
