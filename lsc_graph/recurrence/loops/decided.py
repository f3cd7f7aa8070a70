"""What the number of a step alone decides: counters, indices, and how often a Loop runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from lsc_graph.canonical.rewiring import inner_graphs
from lsc_graph.canonical.shapes import static_shape
from lsc_graph.errors import LimitExceededError
from lsc_graph.recurrence.dataflow import inputs_of
from lsc_graph.recurrence.loops.parts import Carried, LoopParts
from lsc_graph.running.reference import Reference

Array = np.ndarray[Any, np.dtype[Any]]

MAX_TRIPS = 100_000
MAX_FLOATS = 8
"""Larger constants are taken for weights."""
_RANDOM = frozenset(
    ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")
)


@dataclass
class Decided:
    """Values of a loop body that neither data nor weights influence.

    Attributes:
        counters: carried values among them.
        values: all of them, inputs of the body included.
        nodes: those that compute them, in order.
        decides_end: whether the condition to go on is among them.
        arrays: per value that the rest of the body reads, what it is at each step (after `run`).
    """

    counters: list[Carried]
    values: set[ir.Value]
    nodes: list[ir.Node]
    decides_end: bool
    arrays: dict[ir.Value, list[Array]] = field(default_factory=dict)


def find_decided(parts: LoopParts) -> Decided:
    """The largest set of carried numbers and conditions that depend on each other and constants alone."""
    counters = [c for c in parts.carried if _may_count(c)]
    while True:
        values, nodes = _closure(parts, counters)
        kept = [c for c in counters if c.after in values or _is_known(c.after)]
        if len(kept) == len(counters):
            ends = parts.goes_on_next in values or _is_known(parts.goes_on_next)
            return Decided(counters, values, nodes, ends)
        counters = kept


def _closure(parts: LoopParts, counters: list[Carried]) -> tuple[set[ir.Value], list[ir.Node]]:
    values = {parts.number, parts.goes_on, *(counter.before for counter in counters)}
    nodes = []
    for node in parts.body:
        if inner_graphs(node) or node.domain not in ("", "ai.onnx") or node.op_type in _RANDOM:
            continue
        if all(value in values or _is_known(value) for value in inputs_of(node)):
            nodes.append(node)
            values.update(node.outputs)
    return values, nodes


def _may_count(carried: Carried) -> bool:
    """Integers and conditions of any size, and single floating-point numbers, that start from constants."""
    start = array_of(carried.start)
    return start is not None and (_is_discrete(carried.before) or start.size == 1)


def _is_discrete(value: ir.Value) -> bool:
    return value.dtype is not None and not value.dtype.is_floating_point()


def array_of(value: ir.Value | None) -> Array | None:
    """What a constant holds, if it is an initializer or a Constant."""
    if value is None:
        return None
    node = value.producer()
    if node is not None and node.op_type == "Constant" and "value" in node.attributes:
        return np.asarray(node.attributes["value"].as_tensor().numpy())
    return np.asarray(value.const_value.numpy()) if value.const_value and value.is_initializer() else None


def _is_known(value: ir.Value) -> bool:
    """Constants, as long as they are no weights."""
    array = array_of(value)
    return array is not None and (array.dtype.kind in "iub" or array.size <= MAX_FLOATS)


def run(parts: LoopParts, decided: Decided, opset: int, num_steps: int | None) -> int:
    """Follow the decided values over all steps, and note those that the rest of the body reads.

    Args:
        parts: the Loop.
        decided: what to follow.
        opset: version of the default operator set.
        num_steps: how often the Loop runs, where its condition is not decided.

    Returns:
        How often it runs.

    Raises:
        LimitExceededError: more than MAX_TRIPS times.
    """
    frontier = _frontier(parts, decided)
    if not (frontier or decided.counters or decided.decides_end):
        return num_steps if num_steps is not None else _bounded(max_trips(parts), parts)
    session = _session(parts, decided, frontier, opset)
    state = {str(c.before.name): np.asarray(array_of(c.start)) for c in decided.counters}
    limit = num_steps if num_steps is not None else max_trips(parts)
    goes_on = num_steps is not None or starts(parts)
    step = 0
    while goes_on and (limit is None or step < limit):
        _bounded(step + 1, parts)
        found = session.run(
            {str(parts.number.name): np.array(step), str(parts.goes_on.name): np.array(True), **state}
        )
        for value in frontier:
            decided.arrays.setdefault(value, []).append(found[_shown(value)])
        state = {str(c.before.name): found[_shown(c.after)] for c in decided.counters}
        if decided.decides_end and num_steps is None:
            goes_on = bool(found[_shown(parts.goes_on_next)].reshape(-1)[0])
        step += 1
    return step


def _bounded(steps: int | None, parts: LoopParts) -> int:
    if steps is None or steps > MAX_TRIPS:
        raise LimitExceededError(
            "A loop runs too long",
            where=str(parts.node.name),
            got="no end" if steps is None else f"{steps:,} steps",
            expected=f"at most {MAX_TRIPS:,} steps",
        )
    return steps


def starts(parts: LoopParts) -> bool:
    """Whether the Loop runs at all, as far as is known."""
    array = array_of(parts.starts_if)
    return array is None or bool(array.reshape(-1)[0])


def max_trips(parts: LoopParts) -> int | None:
    """The largest number of steps, if there is one that is known."""
    array = array_of(parts.max_trips)
    return None if array is None else int(array.reshape(-1)[0])


def _frontier(parts: LoopParts, decided: Decided) -> list[ir.Value]:
    """Decided integers, conditions and counters that nodes read which stay, or that are stacked as outputs.

    Other decided numbers are still computed in the body, for they may be made from small weights.
    """
    counters = {counter.before for counter in decided.counters}
    outputs = {collected.element for collected in parts.collected}
    outputs |= {carried.after for carried in parts.carried if carried not in decided.counters}
    gone = set(decided.nodes)

    def is_read(value: ir.Value) -> bool:
        return value in outputs or any(use.node not in gone for use in value.uses())

    for node in reversed(decided.nodes):
        if any(is_read(value) and not _is_discrete(value) for value in node.outputs):
            gone.remove(node)
    return [
        value
        for value in (*parts.body.inputs, *(v for node in decided.nodes for v in node.outputs))
        if value in decided.values and (_is_discrete(value) or value in counters) and is_read(value)
    ]


def _shown(value: ir.Value) -> str:
    return f"shown.{value.name}"


def _session(parts: LoopParts, decided: Decided, frontier: list[ir.Value], opset: int) -> Reference:
    helper = onnx.helper
    inputs = [parts.number, parts.goes_on, *(counter.before for counter in decided.counters)]
    wanted = [*frontier, *(counter.after for counter in decided.counters)]
    wanted += [parts.goes_on_next] if decided.decides_end else []
    wanted = list(dict.fromkeys(wanted))
    read = {value for node in decided.nodes for value in inputs_of(node)} | set(wanted)
    constants = [value for value in read if _is_known(value)]
    nodes = [ir.serde.serialize_node(node) for node in decided.nodes]
    nodes += [helper.make_node("Identity", [str(value.name)], [_shown(value)]) for value in wanted]
    graph = helper.make_graph(
        nodes,
        "decided",
        [_info(value, counters=decided.counters) for value in inputs],
        [onnx.ValueInfoProto(name=_shown(value)) for value in wanted],
        [onnx.numpy_helper.from_array(np.asarray(array_of(v)), str(v.name)) for v in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return Reference(model)


def _info(value: ir.Value, counters: list[Carried]) -> onnx.ValueInfoProto:
    starts_at: Mapping[ir.Value, Array] = {c.before: np.asarray(array_of(c.start)) for c in counters}
    array = starts_at.get(value)
    dtype = value.dtype or ir.DataType.INT64
    shape = array.shape if array is not None else static_shape(value) or ()
    return onnx.helper.make_tensor_value_info(str(value.name), int(dtype), shape)
