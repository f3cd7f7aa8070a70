"""Lists of tensors that are slices of one tensor, read as the tensor itself."""

from __future__ import annotations

import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.loops.decided import array_of
from lsc_graph.recurrence.writer import GraphWriter, Names, replace_output


def read_lists_as_tensors(model: ir.Model) -> None:
    """Rewrite SequenceAt and SequenceLength of a SplitToSequence into Gather and a constant, in place."""
    names = None
    for node in list(model.graph):
        if node.op_type != "SplitToSequence" or not _is_single_split(node):
            continue
        names = names or Names(model.graph)
        for use in list(node.outputs[0].uses()):
            if use.node.op_type in ("SequenceAt", "SequenceLength"):
                _replace(node, use.node, names)


def _is_single_split(node: ir.Node) -> bool:
    """Whether every piece has width one: by default, or as asked for."""
    if static_shape(node.inputs[0]) is None:
        return False
    if len(node.inputs) < 2 or node.inputs[1] is None:
        return True
    sizes = array_of(node.inputs[1])
    return sizes is not None and bool((sizes == 1).all())


def _replace(split: ir.Node, reader: ir.Node, names: Names) -> None:
    source, graph = split.inputs[0], reader.graph
    assert source is not None
    assert graph is not None
    shape = list(static_shape(source) or ())
    axis = split.attributes.get_int("axis", 0) % len(shape)
    writer = GraphWriter(names.unique_prefix(f"{reader.outputs[0].name}.list"), source.dtype)
    if reader.op_type == "SequenceLength":
        result = writer.scalar(shape[axis])
    else:
        index = reader.inputs[1]
        assert index is not None
        has_split = len(split.inputs) > 1 and split.inputs[1] is not None
        keeps = has_split or split.attributes.get_int("keepdims", 1) == 1
        size, shape = shape[axis], [*shape[:axis], *shape[axis + 1 :]]
        result = writer.op("Gather", [source, index], "item", shape, axis=axis)
        if keeps:
            shape.insert(axis, 1)
            result = writer.op("Unsqueeze", [result, writer.integers([axis])], "item", shape)
        assert size
    graph.insert_before(reader, writer.nodes)
    replace_output(reader.outputs[0], result)
    graph.remove(reader, safe=True)
