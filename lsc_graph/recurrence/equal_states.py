"""States of a Scan that are equal at every step, made one; those that nothing needs are left out.

Masked layers, for example, carry their last output beside the state that it is. States are equal if they
start from the same value and every step computes them alike from equal ones: the coarsest such partition is
found by refining one that only starts and types decide. A state that neither an output nor another needed
state is computed from, such as a statistic whose last value is dropped, is part of no gradient.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as passes

from lsc_graph.canonical.rewiring import put_in_place, remove_unused_in
from lsc_graph.recurrence.dataflow import direct_sources
from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.recurrence.value_keys import ValueKeys, held
from lsc_graph.recurrence.writer import replace_output

Watched = tuple[tuple[str | None, ...], ...]


@dataclass(frozen=True)
class MergedScan:
    """A Scan that took another one's place, and which of that one's states it still has."""

    scan: ir.Node
    kept: tuple[int, ...]

    def names(self, names: Sequence[str]) -> tuple[str, ...]:
        """Names of the states that are left."""
        return tuple(names[index] for index in self.kept) if names else ()

    def watched(self, names: Sequence[tuple[str | None, ...]]) -> Watched:
        """What these are called at each step."""
        return tuple(names[index] for index in self.kept) if names else ()


def merge_equal_states(model: ir.Model, but: Sequence[ir.Node] = ()) -> dict[ir.Node, MergedScan]:
    """Rewrite the Scans of the main graph that have states twice, or for nothing; new ones by old ones."""
    constants = Constants(model.graph)
    found = {}
    for node in list(model.graph):
        if node.op_type == "Scan" and node.domain in ("", "ai.onnx") and node not in but:
            first = _firsts(node, constants)
            needed = _needed(node, first)
            if needed and len(needed) < len(first):
                found[node] = _merged(node, first, needed)
    if found:
        passes.TopologicalSortPass()(model)
        for merged in found.values():
            remove_unused_in(merged.scan.attributes["body"].as_graph())
    return found


def _firsts(node: ir.Node, constants: Constants) -> list[int]:
    """For each state the first one that is equal to it."""
    body = node.attributes["body"].as_graph()
    num_states = len(node.inputs) - node.attributes.get_int("num_scan_inputs", 0)
    classes = _numbered([held(value, constants) for value in node.inputs[:num_states]])
    while True:
        bound = {value: ("state", own) for value, own in zip(body.inputs, classes, strict=False)}
        keys = ValueKeys(body, bound, constants)
        refined = _numbered(
            [(own, keys.of(after)) for own, after in zip(classes, body.outputs, strict=False)]
        )
        if refined == classes:
            return [classes.index(own) for own in classes]
        classes = refined


def _numbered(keys: Sequence[Hashable]) -> list[int]:
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def _needed(node: ir.Node, first: Sequence[int]) -> tuple[int, ...]:
    """The first states of those that are equal, as far as something read is computed from them."""
    body = node.attributes["body"].as_graph()
    befores = dict(zip(body.inputs, first, strict=False))
    is_read = [value.is_graph_output() or any(True for _ in value.uses()) for value in node.outputs]
    needed = {own for own, read in zip(first, is_read, strict=False) if read}
    shown = zip(body.outputs, is_read, strict=True)
    pending = [value for index, (value, read) in enumerate(shown) if read and index >= len(first)]
    pending += [body.outputs[own] for own in needed]
    while pending:
        value = pending.pop()
        reached = {value} if value in befores else direct_sources(value, befores)
        fresh = {befores[source] for source in reached} - needed
        needed |= fresh
        pending += [body.outputs[own] for own in fresh]
    return tuple(sorted(needed))


def _merged(node: ir.Node, first: Sequence[int], kept: tuple[int, ...]) -> MergedScan:
    """The Scan with the states to be kept alone; who reads one that is equal to one of them reads that."""
    body, graph = node.attributes["body"].as_graph(), node.graph
    assert graph is not None
    _merge_in_body(body, first, kept)
    outputs = [
        ir.Value(name=f"{value.name}.merged", shape=value.shape, type=value.type) for value in node.outputs
    ]
    wanted = [*(outputs[index] for index in kept), *outputs[len(first) :]]
    scan = ir.Node(
        node.domain,
        "Scan",
        [*(node.inputs[index] for index in kept), *node.inputs[len(first) :]],
        list(node.attributes.values()),
        outputs=wanted,
        name=node.name,
        version=node.version,
        metadata_props=dict(node.metadata_props),
    )
    graph.insert_before(node, scan)
    sources = [*(outputs[own] for own in first), *outputs[len(first) :]]
    for index, (old, new) in enumerate(zip(node.outputs, sources, strict=True)):
        if old.name and index < len(first) and index != first[index]:
            put_in_place(old, new)
        elif old.name:
            replace_output(old, new)
    graph.remove(node, safe=True)
    return MergedScan(scan, kept)


def _merge_in_body(body: ir.Graph, first: Sequence[int], kept: Sequence[int]) -> None:
    """Let whatever reads a state, old or new, read the first one that is equal to it."""
    old, new = list(body.inputs[: len(first)]), list(body.outputs[: len(first)])
    body.inputs[: len(first)] = [old[index] for index in kept]
    body.outputs[: len(first)] = [new[index] for index in kept]
    for index, own in enumerate(first):
        if index == own:
            continue
        ir.convenience.replace_all_uses_with(old[index], old[own])
        if new[index] is not new[own] and new[index].producer() is not None:
            ir.convenience.replace_all_uses_with(new[index], new[own])
            _write_again(body, new[index], new[own])


def _write_again(body: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """What is put out at each step is a copy of `new` where it was `old`."""
    for place, value in enumerate(body.outputs):
        if value is old:
            copy = ir.node("Identity", [new])
            copy.outputs[0].name, copy.outputs[0].type, copy.outputs[0].shape = old.name, old.type, old.shape
            old.name = f"{old.name}.equal"
            body.append(copy)
            body.outputs[place] = copy.outputs[0]
