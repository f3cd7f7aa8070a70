"""A Loop node taken apart: its trip count, condition, carried values and collected outputs."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from lsc_graph.canonical.rewiring import put_in_place
from lsc_graph.recurrence.dataflow import copied


@dataclass
class Carried:
    """A loop-carried value: its start, what the body reads and writes, and the node's final output."""

    start: ir.Value
    before: ir.Value
    after: ir.Value
    final: ir.Value


@dataclass
class Collected:
    """A body output that the Loop stacks along a new first axis."""

    element: ir.Value
    sequence: ir.Value


@dataclass
class LoopParts:
    """A Loop node of the main graph (ONNX operator Loop).

    `max_trips` and `starts_if` are its first two inputs, None where left out; `number` and `goes_on` are
    what the body knows of them, `goes_on_next` what it decides.
    """

    node: ir.Node
    body: ir.Graph
    max_trips: ir.Value | None
    starts_if: ir.Value | None
    number: ir.Value
    goes_on: ir.Value
    goes_on_next: ir.Value
    carried: list[Carried]
    collected: list[Collected]


def parts_of(node: ir.Node) -> LoopParts:
    """The parts of a Loop node."""
    body = node.attributes["body"].as_graph()
    starts = [value for value in node.inputs[2:] if value is not None]
    count = len(starts)
    carried = [
        Carried(*each)
        for each in zip(
            starts, body.inputs[2:], body.outputs[1 : count + 1], node.outputs[:count], strict=True
        )
    ]
    collected = [
        Collected(element, sequence)
        for element, sequence in zip(body.outputs[count + 1 :], node.outputs[count:], strict=True)
    ]
    return LoopParts(
        node=node,
        body=body,
        max_trips=node.inputs[0],
        starts_if=node.inputs[1] if len(node.inputs) > 1 else None,
        number=body.inputs[0],
        goes_on=body.inputs[1],
        goes_on_next=body.outputs[0],
        carried=carried,
        collected=collected,
    )


def origin(value: ir.Value) -> ir.Value:
    """The value that a chain of copies leads back to."""
    while (source := copied(value)) is not None:
        value = source
    return value


def forward_unchanged(parts: LoopParts) -> None:
    """Let the body read carried values that never change (weights, whole sequences) from outside.

    Such a value is its own start at every step, so that it is no state. The body's list of outputs has to
    be empty, for they may be its inputs.
    """
    is_changed = True
    while is_changed:
        is_changed = False
        for carried in list(parts.carried):
            source = origin(carried.after)
            if source is carried.before or source is carried.start:
                ir.convenience.replace_all_uses_with(carried.before, carried.start)
                put_in_place(carried.final, carried.start)
                parts.carried.remove(carried)
                is_changed = True


def loops_of(graph: ir.Graph) -> list[ir.Node]:
    """The Loop nodes of a graph itself."""
    return [node for node in graph if node.op_type == "Loop" and node.domain in ("", "ai.onnx")]
