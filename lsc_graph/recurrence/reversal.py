"""Scans over flipped sequences turned into Scans that run in reverse, so that times are true times."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from lsc_graph.canonical.rewiring import remove_unused
from lsc_graph.recurrence.loops.decided import array_of
from lsc_graph.recurrence.writer import GraphWriter, Names, replace_output


def flipped(value: ir.Value) -> tuple[ir.Value, int] | None:
    """What a value is the reverse of, and along which axis: by Slice, ReverseSequence, or Gather."""
    node = value.producer()
    source = node.inputs[0] if node is not None and node.inputs else None
    if node is None or source is None or source.shape is None or node.domain not in ("", "ai.onnx"):
        return None
    shape = tuple(dim if isinstance(dim, int) else -1 for dim in source.shape)
    if node.op_type == "ReverseSequence":
        axis, lengths = node.attributes.get_int("time_axis", 0), array_of(node.inputs[1])
        return (source, axis) if lengths is not None and bool((lengths == shape[axis]).all()) else None
    if node.op_type == "Gather":
        return _gathered_backwards(node, source, shape)
    operands = [array_of(operand) for operand in node.inputs[1:]]
    if node.op_type != "Slice" or len(operands) < 4 or any(a is None or a.size != 1 for a in operands):
        return None
    start, end, axis, step = (int(a.reshape(-1)[0]) for a in operands if a is not None)
    axis %= len(shape)
    is_whole = range(shape[axis])[start:end:step] == range(shape[axis])[::-1]
    return (source, axis) if step == -1 and is_whole else None


def _gathered_backwards(
    node: ir.Node, source: ir.Value, shape: tuple[int, ...]
) -> tuple[ir.Value, int] | None:
    """As jax2onnx writes jnp.flip: every index, from the last to the first."""
    indices, axis = array_of(node.inputs[1]), node.attributes.get_int("axis", 0) % max(len(shape), 1)
    if indices is None or indices.ndim != 1 or len(indices) != shape[axis]:
        return None
    return (source, axis) if np.array_equal(indices % shape[axis], np.arange(shape[axis])[::-1]) else None


def turn_around(model: ir.Model) -> None:
    """Let every Scan of the main graph that reads flipped sequences read the sequences in reverse, in place.

    Where most of what it reads then runs backwards, so does what it writes; for its readers that is
    flipped once more, or a flip of theirs falls away.
    """
    scans = [node for node in model.graph if node.op_type == "Scan" and node.domain in ("", "ai.onnx")]
    changed = [node for node in scans if _read_unflipped(node)]
    for node in changed:
        _write_in_reverse(node, Names(model.graph))
    if changed:
        passes.TopologicalSortPass()(model)
        remove_unused(model)


def _directions(node: ir.Node, kind: str, count: int) -> list[int]:
    return list(node.attributes.get_ints(f"scan_{kind}_directions", [0] * count))


def _read_unflipped(node: ir.Node) -> bool:
    """Replace flipped inputs by what they are the reverse of; True if most inputs run backwards by that."""
    count = node.attributes.get_int("num_scan_inputs", 0)
    first = len(node.inputs) - count
    axes = node.attributes.get_ints("scan_input_axes", [0] * count)
    before = _directions(node, "input", count)
    after = list(before)
    for index in range(count):
        value = node.inputs[first + index]
        found = flipped(value) if value is not None else None
        if value is not None and found is not None and found[1] == axes[index] % len(value.shape or ()):
            node.replace_input_with(first + index, found[0])
            after[index] = 1 - after[index]
    if after == before:
        return False
    node.attributes["scan_input_directions"] = ir.AttrInt64s("scan_input_directions", after)
    return reads_in_reverse(node)


def reads_in_reverse(node: ir.Node) -> bool:
    """Whether a Scan reads most of its sequences of numbers from their end."""
    count = node.attributes.get_int("num_scan_inputs", 0)
    is_float = [_is_float(value) for value in node.inputs[len(node.inputs) - count :]]
    backwards = sum(d for d, f in zip(_directions(node, "input", count), is_float, strict=True) if f)
    return 2 * backwards > sum(is_float)


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and (value.dtype is None or value.dtype.is_floating_point())


def _write_in_reverse(node: ir.Node, names: Names) -> None:
    num_states = len(node.inputs) - node.attributes.get_int("num_scan_inputs", 0)
    sequences = node.outputs[num_states:]
    directions = _directions(node, "output", len(sequences))
    if not sequences or any(directions):
        return
    node.attributes["scan_output_directions"] = ir.AttrInt64s("scan_output_directions", [1] * len(sequences))
    axes = node.attributes.get_ints("scan_output_axes", [0] * len(sequences))
    graph = node.graph
    assert graph is not None
    for value, axis in zip(sequences, axes, strict=True):
        if value.name and value.shape is not None:
            writer = GraphWriter(names.unique_prefix(f"{value.name}.turned"), value.dtype)
            _flip_for_readers(value, axis % len(value.shape), writer)
            graph.insert_after(node, writer.nodes)


def _flip_for_readers(value: ir.Value, axis: int, writer: GraphWriter) -> None:
    """Readers that flip the sequence read it as it is now; the others read a flipped one."""
    readers = [use.node for use in value.uses()]
    flips = [
        reader.outputs[0]
        for reader in dict.fromkeys(readers)
        if reader.outputs and flipped(reader.outputs[0]) == (value, axis)
    ]
    others = [use for use in value.uses() if use.node.outputs[0] not in flips]
    if others or value.is_graph_output():
        operands = [writer.integers([number]) for number in (-1, -np.iinfo(np.int64).max, axis, -1)]
        turned = writer.op("Slice", [value, *operands], "sequence", value.shape)
        for use in others:
            use.node.replace_input_with(use.idx, turned)
        if value.is_graph_output():
            ir.convenience.replace_all_uses_with(value, turned, replace_graph_outputs=True)
            slicing = turned.producer()
            assert slicing is not None
            slicing.replace_input_with(0, value)
            name = value.name
            value.name = f"{name}.in_reverse"
            turned.name = name
    for flip in flips:
        replace_output(flip, writer.op("Identity", [value], "unflipped", value.shape))
