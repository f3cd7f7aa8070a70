"""What shapes and constants decide is computed once: shape arithmetic, conditions, indices."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.evaluate import MAX_ELEMENTS, Array, evaluate
from lsc_graph.canonical.inference import infer_node
from lsc_graph.canonical.rewiring import inner_graphs, put_in_place
from lsc_graph.canonical.shapes import static_shape

# Float initializers up to this size (a scale, one factor for each axis) may take part in shape arithmetic.
MAX_FLOATS = 8
MAX_KNOWN_ELEMENTS = 2**24
# Operators with float inputs that only set the size of what comes out.
_SIZED_BY_FLOATS = {"Resize": (1, 2), "Upsample": (1,), "Range": (0, 1, 2)}


def fold_constants(model: ir.Model) -> bool:
    """Replace integer and boolean values that shapes and initializers decide; True if any was replaced.

    Inner graphs are folded too, as far as what they capture decides. Small floats are followed on the
    way (a size computed through a division), but no float becomes an initializer, except as the scale or
    range of an operator whose output's size it sets: computations on weights stay what they are.
    """
    folder = _Folder(model.graph, model.opset_imports.get("", 0))
    for node in list(model.graph.all_nodes()):
        folder.visit(node)
    return folder.is_changed


class _Folder:
    """Known values of one sweep through a model, in topological order."""

    def __init__(self, graph: ir.Graph, opset: int) -> None:
        self.graph, self.opset = graph, opset
        self.known: dict[ir.Value, Array] = {}
        self.num_elements = 0
        self.is_changed = False

    def visit(self, node: ir.Node) -> None:
        """Compute a node if it is decided; learn its outputs' shapes if those are."""
        if inner_graphs(node):
            return
        arrays = [self._array(value) for value in node.inputs]
        if any(static_shape(value) is None for value in node.outputs):
            infer_node(node, self.known, self.opset)
        for value, array in zip(node.outputs, self._outputs(node, arrays), strict=False):
            self._learn(value, array)

    def _outputs(self, node: ir.Node, arrays: list[Array | None]) -> list[Array]:
        shape_or_size = _shape_or_size(node)
        if shape_or_size is not None or self.num_elements > MAX_KNOWN_ELEMENTS:
            return shape_or_size or []
        is_open = any(v is not None and a is None for v, a in zip(node.inputs, arrays, strict=True))
        return [] if is_open else evaluate(node, arrays, self.opset) or []

    def _array(self, value: ir.Value | None) -> Array | None:
        """A value that is known: computed before, or a small initializer."""
        if value is None or value in self.known:
            return None if value is None else self.known[value]
        tensor = value.const_value
        if tensor is None or not value.is_initializer():
            return None
        is_vector_of_floats = tensor.dtype.is_floating_point() and (
            tensor.size > MAX_FLOATS or len(tensor.shape) > 1
        )
        if is_vector_of_floats or tensor.size > MAX_ELEMENTS or tensor.dtype is ir.DataType.STRING:
            return None
        self.known[value] = np.asarray(tensor.numpy())
        return self.known[value]

    def _learn(self, value: ir.Value, array: Array) -> None:
        self.known[value] = array
        self.num_elements += array.size
        value.shape = ir.Shape(array.shape)
        value.dtype = value.dtype or ir.DataType.from_numpy(array.dtype)
        if _is_to_be_replaced(value, array):
            put_in_place(value, self._initializer(f"{value.name}.folded", array))
            self.is_changed = True

    def _initializer(self, name: str, array: Array) -> ir.Value:
        while name in self.graph.initializers:
            name += "_"
        constant = ir.val(name, const_value=ir.tensor(np.array(array, order="C"), name=name))
        self.graph.register_initializer(constant)
        return constant


def _is_to_be_replaced(value: ir.Value, array: Array) -> bool:
    if array.dtype.kind == "f":
        uses = value.uses()
        return any(index in _SIZED_BY_FLOATS.get(node.op_type, ()) for node, index in uses)
    if not value.is_graph_output():
        return bool(value.uses())
    node = value.producer()
    source = node.inputs[0] if node is not None and node.op_type == "Identity" else None
    return source is None or not source.is_initializer()


def _shape_or_size(node: ir.Node) -> list[Array] | None:
    """The output of a Shape or Size node whose input has a static shape."""
    if node.op_type not in ("Shape", "Size") or node.domain:
        return None
    shape = static_shape(node.inputs[0])
    if shape is None:
        return None
    if node.op_type == "Size":
        return [np.array(math.prod(shape), dtype=np.int64)]
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(shape))
    return [np.array(shape[start:end], dtype=np.int64)]
