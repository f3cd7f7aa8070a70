"""Scans over flipped sequences turned into Scans that run in reverse, so that times are true times."""

from __future__ import annotations

from collections.abc import Container, Iterator

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from lsc_graph.canonical.rewiring import put_in_place, remove_unread
from lsc_graph.recurrence.backwards import is_constant, runs_backwards
from lsc_graph.recurrence.site import is_most_reverse
from lsc_graph.recurrence.unflipped import flipped, unflipped
from lsc_graph.recurrence.writer import GraphWriter, Names, replace_output


def turn_around(model: ir.Model, kept: Container[ir.Value] = ()) -> set[ir.Node]:
    """Let every Scan of the main graph that reads flipped sequences read the sequences in reverse, in place.

    Where most of what it reads then runs backwards, so does what it writes; for its readers that is
    flipped once more, or a flip of theirs falls away. What nothing reads then is removed, but for `kept`.
    Returns those whose steps run the other way now.
    """
    scans = [node for node in model.graph if node.op_type == "Scan" and node.domain in ("", "ai.onnx")]
    turned = set()
    for node in scans:  # in order: what one writes in reverse, the next one may read
        before = reads_in_reverse(node)
        if _read_unflipped(node, Names(model.graph), kept):
            _write_as_read(node, Names(model.graph), kept)
            passes.TopologicalSortPass()(model)
            _cancel_flips(model.graph, kept)
        if reads_in_reverse(node) != before:
            turned.add(node)
    return turned


def _cancel_flips(graph: ir.Graph, kept: Container[ir.Value]) -> None:
    """Read what was flipped twice as it was before."""
    for node in list(graph):
        found = flipped(node.outputs[0]) if node.outputs else None
        source = unflipped(*found) if found is not None else None
        if source is not None:
            put_in_place(node.outputs[0], source)
            remove_unread(node.outputs[0], kept)


def _directions(node: ir.Node, kind: str, count: int) -> list[int]:
    return list(node.attributes.get_ints(f"scan_{kind}_directions", [0] * count))


def _read_unflipped(node: ir.Node, names: Names, kept: Container[ir.Value]) -> bool:
    """Replace flipped inputs by what they are the reverse of; True if there were any.

    Where a flip cannot be taken out, as before a convolution, another one behind it gives true times.
    """
    before = _directions(node, "input", node.attributes.get_int("num_scan_inputs", 0))
    after = list(before)
    for index, value, axis in _sequences(node):
        is_backwards = runs_backwards(value, axis)
        source = unflipped(value, axis) if is_backwards is not False else None
        if source is None and is_backwards:
            source = _turned_before(node, value, axis, names)
        if source is not None:
            _read_instead(node, index, source, kept)
            after[index] = 1 - after[index]
    if after == before:
        return False
    node.attributes["scan_input_directions"] = ir.AttrInt64s("scan_input_directions", after)
    _let_constants_follow(node, names, kept)
    return True


def _sequences(node: ir.Node) -> Iterator[tuple[int, ir.Value, int]]:
    """The sequences that a Scan reads, by their numbers, with their axes of time."""
    count = node.attributes.get_int("num_scan_inputs", 0)
    axes = node.attributes.get_ints("scan_input_axes", [0] * count)
    for index, value in enumerate(node.inputs[len(node.inputs) - count :]):
        if value is not None and value.shape is not None:
            yield index, value, axes[index] % len(value.shape)


def _read_instead(node: ir.Node, index: int, source: ir.Value, kept: Container[ir.Value]) -> None:
    """Let a Scan read another sequence in place of one."""
    at = len(node.inputs) - node.attributes.get_int("num_scan_inputs", 0) + index
    value = node.inputs[at]
    assert value is not None
    node.replace_input_with(at, source)
    remove_unread(value, kept)


def _let_constants_follow(node: ir.Node, names: Names, kept: Container[ir.Value]) -> None:
    """Constants of the steps, which have no time of their own, are read the way that most sequences are."""
    directions = _directions(node, "input", node.attributes.get_int("num_scan_inputs", 0))
    constants = [own for own in _sequences(node) if is_constant(own[1])]
    others = [own for own in _sequences(node) if own not in constants]
    direction = int(is_most_reverse((bool(directions[i]), value.dtype) for i, value, _ in others))
    for index, value, axis in constants:
        if directions[index] != direction:
            _read_instead(node, index, _turned_before(node, value, axis, names), kept)
            directions[index] = direction
    node.attributes["scan_input_directions"] = ir.AttrInt64s("scan_input_directions", directions)


def _turned_before(node: ir.Node, value: ir.Value, axis: int, names: Names) -> ir.Value:
    """A sequence turned around, for a Scan to read."""
    assert node.graph is not None
    writer = GraphWriter(names.unique_prefix(f"{value.name}.in_time"), value.dtype)
    source = _turned(value, axis, writer)
    node.graph.insert_before(node, writer.nodes)
    return source


def reads_in_reverse(node: ir.Node) -> bool:
    """Whether a Scan reads most of its sequences of numbers from their end."""
    count = node.attributes.get_int("num_scan_inputs", 0)
    read = node.inputs[len(node.inputs) - count :]
    types = [value.dtype if value is not None else None for value in read]
    return is_most_reverse(zip(map(bool, _directions(node, "input", count)), types, strict=True))


def _write_as_read(node: ir.Node, names: Names, kept: Container[ir.Value]) -> None:
    """Let a Scan write its sequences in the direction in which it reads most of its own."""
    num_states = len(node.inputs) - node.attributes.get_int("num_scan_inputs", 0)
    sequences = node.outputs[num_states:]
    before = _directions(node, "output", len(sequences))
    direction = int(reads_in_reverse(node))
    node.attributes["scan_output_directions"] = ir.AttrInt64s(
        "scan_output_directions", [direction] * len(sequences)
    )
    axes = node.attributes.get_ints("scan_output_axes", [0] * len(sequences))
    graph = node.graph
    assert graph is not None
    for value, axis, own in zip(sequences, axes, before, strict=True):
        if own != direction and value.name and value.shape is not None:
            writer = GraphWriter(names.unique_prefix(f"{value.name}.turned"), value.dtype)
            _flip_for_readers(value, axis % len(value.shape), writer, kept)
            graph.insert_after(node, writer.nodes)


def _flip_for_readers(value: ir.Value, axis: int, writer: GraphWriter, kept: Container[ir.Value]) -> None:
    """Readers that flip the sequence read it as it is now; others a flipped one with its name."""
    readers = [use.node for use in value.uses()]
    flips = [
        reader.outputs[0]
        for reader in dict.fromkeys(readers)
        if reader.outputs and flipped(reader.outputs[0]) == (value, axis)
    ]
    others = [use for use in value.uses() if use.node.outputs[0] not in flips]
    if others or value.is_graph_output():
        turned = _turned(value, axis, writer)
        for use in others:
            use.node.replace_input_with(use.idx, turned)
        if value.is_graph_output():
            ir.convenience.replace_all_uses_with(value, turned, replace_graph_outputs=True)
            slicing = turned.producer()
            assert slicing is not None
            slicing.replace_input_with(0, value)
        value.name, turned.name = f"{value.name}.in_reverse", value.name
    for flip in flips:
        replace_output(flip, writer.op("Identity", [value], "unflipped", value.shape))
        remove_unread(flip, kept)


def _turned(value: ir.Value, axis: int, writer: GraphWriter) -> ir.Value:
    operands = [writer.integers([number]) for number in (-1, -np.iinfo(np.int64).max, axis, -1)]
    return writer.op("Slice", [value, *operands], "sequence", value.shape)
