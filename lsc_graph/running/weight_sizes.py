"""Sizes that the weights of a model ask of its inputs: candidates for what the file leaves open."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

_READ_AXIS = {"MatMul": -2, "RNN": -1, "GRU": -1, "LSTM": -1, "Conv": 1}
"""The axis of an operator's second input that is as long as what it reads."""


def weight_sizes(proto: onnx.ModelProto) -> tuple[int, ...]:
    """How long what the operators with weights read is, in the order of the file."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            shapes[node.output[0]] = tuple(node.attribute[0].t.dims)
    return tuple(dict.fromkeys(_read_sizes(proto.graph, shapes)))


def _read_sizes(graph: onnx.GraphProto, shapes: dict[str, tuple[int, ...]]) -> Iterator[int]:
    for node in graph.node:
        shape = shapes.get(node.input[1], ()) if len(node.input) > 1 else ()
        if len(shape) < 2:
            continue
        if node.op_type == "Gemm":
            is_transposed = any(a.name == "transB" and a.i for a in node.attribute)
            yield shape[1 if is_transposed else 0]
        elif node.op_type in _READ_AXIS:
            yield shape[_READ_AXIS[node.op_type]]
