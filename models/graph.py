"""A small writer of ONNX graphs: every operator call returns the name of its result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
Array = npt.NDArray[np.float32]
Dims = Sequence[int | str]


class GraphBuilder:
    """Nodes, initializers, inputs and outputs in the order in which they are added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dims: Dims) -> str:
        """A float input; a dimension given by name is dynamic."""
        self.inputs.append(float_value(name, dims))
        return name

    def output(self, name: str, dims: Dims) -> None:
        """Declare an existing float value as an output."""
        self.outputs.append(float_value(name, dims))

    def weight(self, name: str, array: npt.ArrayLike) -> str:
        """A float32 initializer."""
        values = np.array(array, dtype=np.float32, order="C")
        self.initializers[name] = numpy_helper.from_array(values, name)
        return name

    def integers(self, values: int | Sequence[int]) -> str:
        """An int64 constant, stored once however often it is asked for."""
        listed = [values] if isinstance(values, int) else values
        name = "_".join(["int" if isinstance(values, int) else "ints", *map(str, listed)])
        self.initializers[name] = numpy_helper.from_array(np.array(values, dtype=np.int64), name)
        return name

    def op(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """A node with one output."""
        return self.ops(op_type, inputs, [output], **attributes)[0]

    def ops(
        self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> tuple[str, ...]:
        """A node with several outputs; it is named after the first that it has."""
        name = next(output for output in outputs if output)
        self.nodes.append(helper.make_node(op_type, inputs, outputs, name=f"{name}/{op_type}", **attributes))
        return tuple(outputs)

    def linear(self, value: str, weight: str, output: str, bias: str | None = None) -> str:
        """value [B,D] times the transpose of weight [N,D], plus bias [N]: as torch exports nn.Linear."""
        inputs = [value, weight, bias] if bias else [value, weight]
        return self.op("Gemm", inputs, output, transB=1)

    def model(self) -> onnx.ModelProto:
        """The finished model, checked; the registry gives it its name."""
        graph = helper.make_graph(
            self.nodes, "graph", self.inputs, self.outputs, list(self.initializers.values())
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        return model


def float_value(name: str, dims: Dims) -> onnx.ValueInfoProto:
    """The declaration of a float32 value."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims))


def renamed(nodes: Iterable[onnx.NodeProto], names: dict[str, str], prefix: str) -> list[onnx.NodeProto]:
    """Copies of nodes with the values in `names` renamed and the nodes' own names prefixed."""
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = prefix + node.name
        copy.input[:] = [names.get(value, value) for value in node.input]
        copy.output[:] = [names.get(value, value) for value in node.output]
        copies.append(copy)
    return copies
