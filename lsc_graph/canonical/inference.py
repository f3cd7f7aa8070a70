"""Shapes and types of values, by onnx's inference: of a whole model, or of one node with known inputs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnx.shape_inference import infer_node_outputs

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.errors import AnalysisError

Array = np.ndarray[Any, np.dtype[Any]]


_LISTING = frozenset(
    (
        "SequenceEmpty",
        "SequenceInsert",
        "SequenceErase",
        "SequenceConstruct",
        "SplitToSequence",
        "SequenceMap",
    )
)


class _Failure(logging.Filter):
    """Keeps what the pass only logs: that inference failed, and why."""

    error: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info:
            self.error = record.exc_info[1]
        return False


def infer_shapes(model: ir.Model) -> None:
    """Infer the shapes and types of all values, in place.

    Raises:
        AnalysisError: onnx cannot read the model.
    """
    logger, failure = logging.getLogger("onnx_ir.passes.common.shape_inference"), _Failure()
    logger.addFilter(failure)
    try:
        passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    finally:
        logger.removeFilter(failure)
    if failure.error is not None:
        raise AnalysisError("The shapes of the model cannot be inferred", got=root_cause(failure.error))
    for node in model.graph.all_nodes():
        _restore_lists(node)


def _restore_lists(node: ir.Node) -> None:
    """The pass takes lists of tensors for tensors: their types are set right again."""
    if node.op_type in _LISTING and not node.domain:
        _make_list(node.outputs[0])
    if node.op_type == "Loop" and not node.domain:
        body = node.attributes["body"].as_graph()
        for start, before, after, final in zip(
            node.inputs[2:], body.inputs[2:], body.outputs[1:], node.outputs, strict=False
        ):
            if start is not None and isinstance(start.type, ir.SequenceType):
                for value in (before, after, final):
                    value.type, value.shape = start.type, None


def _make_list(value: ir.Value) -> None:
    if isinstance(value.type, ir.TensorType):
        value.type, value.shape = ir.SequenceType(value.type), None


def infer_scans(model: ir.Model) -> bool:
    """Give the outputs of Scan nodes the shapes that their bodies' outputs imply; True if any was open.

    Inference of a whole model does not see constants outside of a body that set shapes inside.
    """
    scans = [node for node in model.graph.all_nodes() if node.op_type == "Scan" and not node.domain]
    return sum(_infer_scan(node) for node in scans) > 0


def _infer_scan(node: ir.Node) -> bool:
    num_states = len(node.inputs) - node.attributes.get_int("num_scan_inputs", 0)
    num_steps = _scan_length(node, num_states)
    axes = node.attributes.get_ints("scan_output_axes", [0] * (len(node.outputs) - num_states))
    is_changed = False
    inner = node.attributes["body"].as_graph().outputs
    for index, (element, output) in enumerate(zip(inner, node.outputs, strict=True)):
        shape, is_sequence = static_shape(element), index >= num_states
        if shape is None or static_shape(output) is not None or (is_sequence and num_steps is None):
            continue
        dims: list[int] = list(shape)
        if is_sequence and num_steps is not None:
            axis = axes[index - num_states]
            dims.insert(axis if axis >= 0 else axis + len(dims) + 1, num_steps)
        output.shape, output.type, is_changed = ir.Shape(dims), output.type or element.type, True
    return is_changed


def _scan_length(node: ir.Node, num_states: int) -> int | None:
    axes = node.attributes.get_ints("scan_input_axes", [0] * (len(node.inputs) - num_states))
    for value, axis in zip(node.inputs[num_states:], axes, strict=True):
        shape = static_shape(value)
        if shape is not None:
            return shape[axis]
    return None


def infer_loops(model: ir.Model) -> bool:
    """Give the outputs of Loop nodes in other graphs than the main one the shapes that their bodies imply,
    where constants alone say how often they run; True if any was open.

    Those of the main graph become Scans, or are refused.
    """
    inner = (node for node in model.graph.all_nodes() if node.graph is not model.graph)
    loops = [node for node in inner if node.op_type == "Loop" and not node.domain]
    return sum(_infer_loop(node) for node in loops) > 0


def _infer_loop(node: ir.Node) -> bool:
    body, num_carried = node.attributes["body"].as_graph(), len(node.inputs) - 2
    num_steps = _loop_length(node, body)
    is_changed = False
    for index, (element, output) in enumerate(zip(body.outputs[1:], node.outputs, strict=True)):
        shape = static_shape(element) if isinstance(element.type, ir.TensorType) else None
        if shape is None or static_shape(output) is not None:
            continue
        if index >= num_carried and num_steps is not None:
            dims = [num_steps, *shape]
        elif index < num_carried and static_shape(node.inputs[index + 2]) == shape:
            dims = list(shape)
        else:
            continue
        output.shape, output.type, is_changed = ir.Shape(dims), output.type or element.type, True
    return is_changed


def _loop_length(node: ir.Node, body: ir.Graph) -> int | None:
    """How often a Loop runs, where only a constant decides that."""
    limit, condition, *_ = (*node.inputs, None, None)
    bound, starts, goes_on = _constant(limit), _constant(condition), body.outputs[0]
    while (own := goes_on.producer()) is not None and own.op_type == "Identity" and own.inputs[0] is not None:
        goes_on = own.inputs[0]
    is_open = starts is None and condition is not None
    if bound is None or is_open or not (goes_on is body.inputs[1] or _constant(goes_on)):
        return None
    return max(0, int(bound)) if starts is None or starts else 0


def _constant(value: ir.Value | None) -> int | None:
    """The number, or truth value, that a value of one element always is."""
    tensor = value.const_value if value is not None else None
    return int(tensor.numpy().item()) if tensor is not None and tensor.size == 1 else None


def root_cause(error: BaseException) -> str:
    """The message of the first of a chain of errors, on one line: those above it only say where."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:400] or type(error).__name__


def infer_node(node: ir.Node, known: Mapping[ir.Value, Array], opset: int) -> None:
    """Infer the shapes of one node's outputs from its inputs' shapes and known values, in place.

    What a whole-model inference leaves open because it does not know values computed on the way.
    """
    inputs = [value for value in node.inputs if value is not None]
    if node.domain or any(value.type is None or static_shape(value) is None for value in inputs):
        return
    types = {str(value.name): _type_proto(value) for value in inputs}
    data = {str(value.name): onnx.numpy_helper.from_array(known[value]) for value in inputs if value in known}
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
        found = infer_node_outputs(
            schema,
            ir.serde.serialize_node(node),
            types,
            data,
            opset_imports=[onnx.helper.make_opsetid("", opset)],
        )
    except Exception:  # onnx raises several unrelated types: what cannot be inferred stays open.
        return
    for value in node.outputs:
        if value.name in found and static_shape(value) is None:
            _take_over(value, found[value.name])


def _type_proto(value: ir.Value) -> onnx.TypeProto:
    return ir.serde.serialize_value(value).type


def _take_over(value: ir.Value, proto: onnx.TypeProto) -> None:
    found = ir.serde.deserialize_type_proto_for_type(proto)
    shape = ir.serde.deserialize_type_proto_for_shape(proto)
    value.type = value.type or found
    if shape is not None:
        value.shape = shape
