"""Models in another floating-point precision."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, TensorProto, numpy_helper

_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def is_half(proto: onnx.ModelProto) -> bool:
    """Whether any initializer, input or cast of the model is of a 16-bit floating-point type."""
    return any(_has_half(graph) for graph in _graphs(proto.graph))


def _has_half(graph: GraphProto) -> bool:
    stored = any(tensor.data_type in _HALF for tensor in graph.initializer)
    declared = any(value.type.tensor_type.elem_type in _HALF for value in (*graph.input, *graph.output))
    return stored or declared or any(attr.i in _HALF for attr in _type_attributes(graph))


def in_single_precision(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model whose 16-bit floating-point values are float32."""
    return _converted(proto, _HALF, TensorProto.FLOAT)


def in_double_precision(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model whose float32 values are float64. Not every operator is implemented for these."""
    return _converted(proto, (TensorProto.FLOAT,), TensorProto.DOUBLE)


def _converted(proto: onnx.ModelProto, old: Collection[int], new: int) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(new)
    for graph in _graphs(copy.graph):
        if TensorProto.FLOAT in old:
            _write_single_values(graph)
        for tensor in (*graph.initializer, *_tensor_attributes(graph)):
            if tensor.data_type in old:
                array = numpy_helper.to_array(tensor).astype(dtype)
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        for attribute in _type_attributes(graph):
            if attribute.i in old:
                attribute.i = new
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type in old:
                value.type.tensor_type.elem_type = new
    return copy


def _write_single_values(graph: GraphProto) -> None:
    """Single-precision values that nodes have without a tensor, as tensors, in place."""
    for node in graph.node:
        kept = [own for own in node.attribute if own.name not in ("value_float", "value_floats")]
        given = [own for own in node.attribute if own not in kept]
        if node.op_type == "ConstantOfShape" and not node.attribute:
            array = np.zeros(1, np.float32)
        elif node.op_type == "Constant" and given:
            array = np.array(onnx.helper.get_attribute_value(given[0]), np.float32)
        else:
            continue
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute("value", numpy_helper.from_array(array))])


def _graphs(graph: GraphProto) -> Iterable[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (
                *([attribute.g] if attribute.type == AttributeProto.GRAPH else ()),
                *attribute.graphs,
            ):
                yield from _graphs(inner)


def _type_attributes(graph: GraphProto) -> Iterable[AttributeProto]:
    for node in graph.node:
        yield from (a for a in node.attribute if a.name in ("to", "dtype") and a.type == AttributeProto.INT)


def _tensor_attributes(graph: GraphProto) -> Iterable[TensorProto]:
    for node in graph.node:
        yield from (a.t for a in node.attribute if a.type == AttributeProto.TENSOR)
