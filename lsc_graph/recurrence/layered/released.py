"""What a loop only carries along is read from outside instead, and no longer carried."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from lsc_graph.canonical.inference import infer_shapes
from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.loops.parts import Carried, LoopParts, forward_unchanged, origin, parts_of
from lsc_graph.recurrence.writer import replace_output


def is_loop(node: ir.Node) -> bool:
    """Whether a node is a Loop or a Scan."""
    return node.op_type in ("Loop", "Scan") and node.domain in ("", "ai.onnx")


def carried_of(node: ir.Node) -> LoopParts:
    """The parts of a Loop; of a Scan its carried values, as those of a Loop."""
    if node.op_type == "Loop":
        return parts_of(node)
    body = node.attributes["body"].as_graph()
    count = len(node.inputs) - node.attributes.get_int("num_scan_inputs", 0)
    each = zip(list(node.inputs)[:count], body.inputs, body.outputs, node.outputs, strict=False)
    carried = [Carried(start, *rest) for start, *rest in each if start is not None]
    nothing = ir.val("")
    return LoopParts(node, body, None, None, nothing, nothing, nothing, carried, [])


def release_unchanged(model: ir.Model) -> None:
    """Let every loop read from outside what it only carries along, such as weights and whole sequences."""
    for node in model.graph.all_nodes():
        if is_loop(node):
            parts = carried_of(node)
            outputs = list(parts.body.outputs)
            parts.body.outputs.clear()
            forward_unchanged(parts)
            parts.body.outputs.extend(outputs)


def share_shapes(model: ir.Model, simplify: Callable[[ir.Model], None]) -> None:
    """Give carried values of Loops that hold loops the shape that they start with, where they keep it.

    Inference of a whole model leaves them open. A value keeps its shape if, from it, the next one has it.
    """
    loops = [node for node in model.graph.all_nodes() if node.op_type == "Loop" and is_loop(node)]
    parts = [parts_of(node) for node in loops]
    assumed = [c for own in parts for c in own.carried if _is_open(c)]
    while assumed:
        for carried in assumed:
            carried.before.shape = carried.start.shape
        infer_shapes(model)
        wrong = [c for c in assumed if not _is_kept(c)]
        if not wrong:
            simplify(model)
            return
        for carried in wrong:
            carried.before.shape = None
        assumed = [carried for carried in assumed if carried not in wrong]


def _is_kept(carried: Carried) -> bool:
    """Whether the next value has the shape; the length of what inner loops collect is open."""
    after, start = carried.after, carried.start.shape
    if after.shape is None or start is None or len(after.shape) != len(start):
        return False
    node = origin(after).producer()
    is_collected = node is not None and is_loop(node)
    pairs = zip(after.shape, start, strict=True)
    return all(one == other or (is_collected and not isinstance(one, int)) for one, other in pairs)


def _is_open(carried: Carried) -> bool:
    is_tensor = isinstance(carried.start.type, ir.TensorType)
    return is_tensor and static_shape(carried.before) is None and static_shape(carried.start) is not None


def drop_released(model: ir.Model) -> None:
    """Rewrite every loop without the carried values that nothing reads, in place."""
    for node in list(model.graph.all_nodes()):
        if is_loop(node):
            _drop(node)


def _drop(node: ir.Node) -> None:
    parts = carried_of(node)
    unread = [index for index, carried in enumerate(parts.carried) if not _is_read(carried)]
    if not unread or node.graph is None:
        return
    first = 2 if node.op_type == "Loop" else 0
    for index in reversed(unread):
        del parts.body.inputs[first + index]
        del parts.body.outputs[first // 2 + index]
    inputs = [value for at, value in enumerate(node.inputs) if at - first not in unread]
    left = [value for at, value in enumerate(node.outputs) if at not in unread]
    attributes = list(node.attributes.values())
    new = ir.Node(node.domain, node.op_type, inputs, attributes, num_outputs=len(left), name=node.name)
    new.metadata_props.update(node.metadata_props)
    node.graph.insert_before(node, new)
    for old, output in zip(left, new.outputs, strict=True):
        output.shape, output.type = old.shape, old.type
        replace_output(old, output)
    node.graph.remove(node, safe=True)


def _is_read(carried: Carried) -> bool:
    """Whether anything but the copy that hands it on reads a carried value."""
    is_left = carried.final.is_graph_output() or any(True for _ in carried.final.uses())
    return is_left or any(True for _ in carried.before.uses())
