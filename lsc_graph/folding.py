"""What shapes and constants decide is computed once: shape arithmetic, conditions, indices."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from lsc_graph.shapes import static_shape

MAX_ELEMENTS = 4096
_RANDOM = frozenset(
    ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"]
)
_LOOPING = frozenset(("If", "Loop", "Scan", "RNN", "GRU", "LSTM", "SequenceMap"))
Known = dict[ir.Value, np.ndarray]


def fold_constants(model: ir.Model) -> bool:
    """Replace integer and boolean values of the main graph that are decided by initializers; True if any was.

    Small floats are followed on the way (a size computed through a division), but no float value is
    replaced: computations on weights stay what they are.
    """
    known: Known = {}
    changed = False
    opsets = dict(model.opset_imports)
    for node in list(model.graph):
        for value, array in zip(node.outputs, _evaluate(node, known, opsets) or (), strict=False):
            if array.size > MAX_ELEMENTS:
                continue
            known[value] = array
            if array.dtype.kind in "iub" and (value.uses() or value.is_graph_output()):
                _replace(model.graph, value, array)
                changed = True
    return changed


def _evaluate(node: ir.Node, known: Known, opsets: dict[str, int]) -> list[np.ndarray] | None:
    if node.domain not in ("", "ai.onnx") or node.op_type in _RANDOM | _LOOPING:
        return None
    if node.op_type in ("Shape", "Size"):
        return _shape_or_size(node)
    arrays = []
    for value in node.inputs:
        array = None if value is None else _value(value, known)
        if value is not None and array is None:
            return None
        arrays.append(array)
    return _run(node, arrays, opsets)


def _shape_or_size(node: ir.Node) -> list[np.ndarray] | None:
    shape = static_shape(node.inputs[0])
    if shape is None:
        return None
    if node.op_type == "Size":
        return [np.array(int(np.prod(shape)), dtype=np.int64)]
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(shape))
    return [np.array(shape[start:end], dtype=np.int64)]


def _value(value: ir.Value, known: Known) -> np.ndarray | None:
    """A value that is known: computed before, or a small initializer (of floats: a scalar)."""
    if value in known:
        return known[value]
    tensor = value.const_value
    if tensor is None or not value.is_initializer() or tensor.size > MAX_ELEMENTS:
        return None
    is_float = tensor.dtype.is_floating_point()
    return None if is_float and tensor.size > 1 else np.asarray(tensor.numpy())


def _run(node: ir.Node, arrays: list[np.ndarray | None], opsets: dict[str, int]) -> list[np.ndarray] | None:
    """The node's outputs by the reference implementation of its operator; None if that fails."""
    names = [f"x{index}" if array is not None else "" for index, array in enumerate(arrays)]
    outputs = [f"y{index}" for index in range(len(node.outputs))]
    proto = ir.serde.serialize_node(node)
    single = onnx.helper.make_node(node.op_type, names, outputs)
    single.attribute.extend(proto.attribute)
    info = onnx.helper.make_tensor_value_info
    feed = {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
    inputs = [info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feed.items()]
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = onnx.helper.make_graph([single], "node", inputs, results)
    imports = [onnx.helper.make_opsetid("", opsets.get("", 17))]
    try:
        found = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=imports)).run(None, feed)
    except Exception:  # whatever a reference implementation trips over: the node simply stays
        return None
    arrays_out = [np.asarray(value) for value in found]
    return arrays_out if all(array.dtype != object for array in arrays_out) else None


def _replace(graph: ir.Graph, value: ir.Value, array: np.ndarray) -> None:
    """Put an initializer in the place of a computed value; graph outputs keep their name by an Identity."""
    name = f"{value.name}.folded"
    while name in graph.initializers:
        name += "_"
    constant = ir.val(name, const_value=ir.tensor(np.array(array, order="C"), name=name))
    graph.register_initializer(constant)
    if value.is_graph_output():
        return
    ir.convenience.replace_all_uses_with(value, constant)
