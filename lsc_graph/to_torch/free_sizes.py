"""A model that may be run with other batches than it was written for, and what each of these takes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

from lsc_graph.model_file.proto_walk import inner_graphs, scopes


def free_sizes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model that leaves the sizes of its inputs open, those that reshapes say of batches, too."""
    shapes = _shapes(proto)
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.value_info[:]
    _free_reshapes(copy, shapes)
    for value in copy.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    return copy


def bytes_depending(proto: onnx.ModelProto, names: Collection[str]) -> int:
    """About what all values take together that depend on inputs of these names, these among them, as doubles.

    A value of unknown shape counts as the largest known one.
    """
    shapes, depending = _shapes(proto), set(names)
    for node in proto.graph.node:
        if depending & _read(node):
            depending |= set(node.output)
    sizes = {name: math.prod(shapes[name]) for name in depending if name in shapes}
    unknown = max(sizes.values(), default=0) * (len(depending) - len(sizes))
    return (sum(sizes.values()) + unknown) * np.dtype(np.float64).itemsize


def _read(node: NodeProto) -> set[str]:
    """Names that a node and its bodies read."""
    inner = (other for _, graph in inner_graphs(node) for scope, _ in scopes(graph) for other in scope.node)
    return {name for own in (node, *inner) for name in own.input}


def _shapes(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the values of a model's main graph, as far as these are known."""
    with suppress(onnx.shape_inference.InferenceError):
        proto = onnx.shape_inference.infer_shapes(proto)
    graph = proto.graph
    known = (*graph.input, *graph.value_info, *graph.output)
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in known
        if value.type.tensor_type.HasField("shape")
        and all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
    }


def _free_reshapes(proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Let constant targets of reshapes leave open the size of the batch that they keep, in place."""
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    for number, node in enumerate(proto.graph.node):
        is_known = node.op_type == "Reshape" and node.domain in ("", "ai.onnx") and node.input[1] in constants
        if not is_known or node.input[0] not in shapes or node.output[0] not in shapes:
            continue
        before, after = shapes[node.input[0]], shapes[node.output[0]]
        axis = _kept_axis(before, after)
        if axis is not None:
            target = np.array([*after[:axis], -1, *after[axis + 1 :]], dtype=np.int64)
            name = f"{node.output[0]}.free_target.{number}"
            proto.graph.initializer.append(numpy_helper.from_array(target, name))
            node.input[1] = name


def _kept_axis(before: Sequence[int], after: Sequence[int]) -> int | None:
    """Which axis of the result of a reshape is one that goes in: of size 1, or else the first."""
    if 0 in (*before, *after):
        return None
    ends = {math.prod(before[:axis]) for axis, size in enumerate(before) if size == 1}
    ones = (axis for axis, size in enumerate(after) if size == 1 and math.prod(after[:axis]) in ends)
    return next(ones, 0 if before and after and before[0] == after[0] else None)
