"""Indices that count from the end, such as h[-1], counted from the front: converters get the others right."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape

_GATHERING = frozenset(("Gather", "GatherElements"))


def count_indices_from_the_front(model: ir.Model) -> None:
    """Replace, in place, negative constant indices of Gather operators whose data have static shapes."""
    for node in model.graph.all_nodes():
        if node.op_type in _GATHERING and node.domain in ("", "ai.onnx"):
            _count_from_the_front(model.graph, node)


def _count_from_the_front(graph: ir.Graph, node: ir.Node) -> None:
    shape, indices = static_shape(node.inputs[0]), node.inputs[1]
    if shape is None or indices is None or indices.const_value is None:
        return
    array = np.asarray(indices.const_value.numpy())
    if not (array < 0).any():
        return
    size = shape[node.attributes.get_int("axis", 0)]
    name = f"{indices.name}.of_{node.outputs[0].name}"
    tensor = ir.tensor(np.where(array < 0, array + size, array).astype(array.dtype), name=name)
    value = ir.val(name, const_value=tensor)
    graph.register_initializer(value)
    node.replace_input_with(1, value)
