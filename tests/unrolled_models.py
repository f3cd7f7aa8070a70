"""Unrolled recurrences for tests, written as exporters write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from lsc_graph.canonical.normalize import normalize
from lsc_graph.recurrence.unrolled.chosen import Chosen
from lsc_graph.recurrence.unrolled.roll import RolledSteps, roll_steps
from lsc_graph.running.reference import Reference

Array = np.ndarray


@dataclass
class Unroller:
    """Collects the nodes of a model; values get their names from the operator and a count."""

    seed: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, Array] = field(default_factory=dict)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.generator = np.random.default_rng(self.seed)

    def op(self, op_type: str, *inputs: str, num_outputs: int = 1, **attributes: object) -> str:
        names = [f"{op_type.lower()}_{len(self.nodes)}_{k}" for k in range(num_outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, name=names[0], **attributes))
        return names[0]

    def sum(self, *values: str) -> str:
        """The sum of values; empty names are zeros, left out."""
        total, *others = [value for value in values if value] or [""]
        for value in others:
            total = self.op("Add", total, value)
        return total

    def weight(self, *shape: int, scale: float = 0.3) -> str:
        return self.constant(scale * self.generator.standard_normal(shape), f"w{len(self.initializers)}")

    def constant(self, value: object, name: str | None = None) -> str:
        array = np.asarray(value)
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        name = name or f"c{len(self.initializers)}"
        self.initializers[name] = array
        return name

    def input(self, name: str, *shape: int, dtype: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "main",
            self.inputs,
            self.outputs,
            [numpy_helper.from_array(array, name) for name, array in self.initializers.items()],
        )
        others = sorted({node.domain for node in self.nodes if node.domain})
        imports = [helper.make_opsetid("", 18), *(helper.make_opsetid(domain, 1) for domain in others)]
        proto = helper.make_model(graph, opset_imports=imports, ir_version=10)
        proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
        onnx.checker.check_model(proto)
        return proto


def at(net: Unroller, sequence: str, time: int, how: str = "Gather") -> str:
    """x[t] of [T, B, D] as [B, D], by Gather, or by Slice and Squeeze."""
    if how == "Gather":
        return net.op("Gather", sequence, net.constant(time), axis=0)
    bounds = [net.constant([k]) for k in (time, time + 1, 0)]
    return net.op("Squeeze", net.op("Slice", sequence, *bounds), net.constant([0]))


def stacked(net: Unroller, rows: Sequence[str]) -> str:
    """Values [B, H] as a sequence [T, B, H]."""
    return net.op("Concat", *(net.op("Unsqueeze", row, net.constant([0])) for row in rows), axis=0)


Cell = Callable[[str, str], str]


def tanh_cell(net: Unroller, num_inputs: int, num_units: int) -> Cell:
    """h' = tanh(x W + h U + b)."""
    w, u, b = net.weight(num_inputs, num_units), net.weight(num_units, num_units), net.weight(num_units)

    def cell(x: str, h: str) -> str:
        summed = net.op("Add", net.op("MatMul", x, w), net.op("MatMul", h, u))
        return net.op("Tanh", net.op("Add", summed, b))

    return cell


def layer(
    net: Unroller, cell: Cell, sequence: str, start: str, times: Sequence[int], how: str = "Gather"
) -> list[str]:
    """The states at `times`, in that order."""
    states = []
    for time in times:
        start = cell(at(net, sequence, time, how), start)
        states.append(start)
    return states


class Network(Unroller):
    """Steps from given states, or from zeros with whatever constants decide left out, as exporters do.

    `drives` is x W with 4 units; `names` are those of values that a test wants to speak of.
    """

    def __init__(
        self, *, is_given: bool, num_steps: int = 6, num_inputs: int = 3, num_units: int = 4
    ) -> None:
        super().__init__()
        self.is_given, self.names = is_given, list[str]()
        self.drives = self.op(
            "MatMul", self.input("x", num_steps, 1, num_inputs), self.weight(num_inputs, num_units)
        )

    def start(self, name: str, width: int) -> str:
        return self.input(name, 1, width) if self.is_given else ""

    def done(self, rows: list[str], names: list[str]) -> onnx.ModelProto:
        self.output(stacked(self, rows))
        self.names = names
        return self.model()


def rolled(proto: onnx.ModelProto, *names: str) -> RolledSteps:
    """The only recurrence, of which the loop computes the same."""
    shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in proto.graph.input}
    generator = np.random.default_rng(1)
    feed = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    model = normalize(proto, shapes, {})
    (steps,), _ = roll_steps(model, lambda part: Reference(part).run(feed), Chosen(stateless=names))
    after = Reference(ir.to_proto(model)).run(feed)
    for name, value in Reference(proto).run(feed).items():
        np.testing.assert_allclose(after[name], value, rtol=1e-5, atol=1e-6)
    return steps
