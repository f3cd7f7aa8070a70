"""A graph whose integers are rewritten as floats that are not rounded, node by node.

A quantised value keeps its unit, the integer step, but is no integer any more: x / scale + zero point,
saturated as the integer type is. What operators of integers compute from it is what they would compute with
infinitely fine steps. Where an operator has no counterpart for such values, they are rounded again before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from lsc_graph.model_file.provenance import STANDS_FOR
from lsc_graph.quantized.numbers import INTEGERS, ends, real_values
from lsc_graph.running.reference import Array

_CLIP_OF_INPUTS = 11
_ROUNDINGS = ("Floor", "Round", "Ceil")
_SMALL = (TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT4, TensorProto.INT4)


@dataclass(frozen=True)
class _Quantized:
    """What a value of integer type was made from; `ends` are those of its range, in steps from zero."""

    real: str
    factor: Array
    shift: float
    ends: tuple[float, float]


class Unrounded:
    """The nodes written so far, and which values of integer type are floats now.

    Args:
        constants: values of constants by name; those written are added.
        producers: the nodes of the original graph by the names of their outputs.
        readers: the nodes that read a value, in any nested graph, by its name.
        results: names of values that must keep their type: outputs of graphs.
        opset: version of the standard operators.
    """

    def __init__(
        self,
        constants: dict[str, Array],
        producers: Mapping[str, NodeProto],
        readers: Mapping[str, Sequence[NodeProto]],
        results: frozenset[str],
        opset: int,
    ) -> None:
        self.constants, self.producers, self.readers, self.results = constants, producers, readers, results
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self.floats: dict[str, int] = {}
        self._quantized: dict[str, _Quantized] = {}
        self._reals: dict[str, str] = {}
        self.replaced: list[str] = []
        self._node_names = {node.name for node in producers.values()}
        self._count = 0

    def enter(self) -> None:
        """Begin another graph: what is written from here on is not seen from elsewhere."""
        self.nodes, self._reals = [], {}

    def undo(self, count: int) -> None:
        """Take back all nodes but the first ones of this graph."""
        gone = {name for node in self.nodes[count:] for name in node.output}
        del self.nodes[count:]
        self._reals = {name: real for name, real in self._reals.items() if real not in gone}

    def emit(self, op_type: str, inputs: Iterable[str], output: str = "", **attributes: Any) -> str:
        """Write a node of the standard operators; returns the name of its output."""
        self._count += 1
        name = output or f"unrounded.{self._count}.{op_type}"
        node_name = f"unrounded.{self._count}.{op_type}" if name in self._node_names else name
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], node_name, **attributes))
        return name

    def alike(self, node: NodeProto, op_type: str, inputs: Iterable[str], output: str) -> str:
        """Write a standard node with the attributes of another one, as far as it knows them."""
        made = self.emit(op_type, inputs, output)
        self.nodes[-1].attribute.extend(a for a in node.attribute if a.name in _ATTRIBUTES[op_type])
        return made

    def constant(self, array: Array, name: str = "", *, of: str = "") -> str:
        """Write a constant; if it stands for a tensor `of` the file, that one is noted."""
        array = np.asarray(array)
        self._count += 1
        name = name or f"unrounded.{self._count}.constant"
        self.constants[name] = array
        value = numpy_helper.from_array(array, name)
        self.nodes.append(helper.make_node("Constant", [], [name], name=name, value=value))
        if of:
            self.nodes[-1].metadata_props.add(key=STANDS_FOR, value=of)
        return name

    def named_after(self, name: str) -> str:
        """A new name for the floats that a constant stands for; reports show it."""
        self._count += 1
        floats = f"{name}.floats"
        return floats if floats not in self.constants else f"{floats}.{self._count}"

    def note(self, node: NodeProto) -> None:
        """Remember that a node was replaced."""
        self.replaced.append(node.name or next(name for name in node.output if name))

    def is_float(self, name: str) -> bool:
        """Whether a value of integer type is a float now."""
        return name in self.floats

    def quantized_type(self, name: str) -> int | None:
        """The type that a value was quantised to, if it was; constants are known by their small integers."""
        known = self.constants.get(name)
        if name in self.floats or known is None:
            return self.floats.get(name)
        elem_type = elem_type_of(known)
        return elem_type if elem_type in _SMALL else None

    def has_no_zero(self, zero: str) -> bool:
        """Whether a zero point is left out, or that of infinitely fine steps.

        One that happens to be zero counts as any other, so that the steps of a recurrence stay alike.
        """
        return not zero or zero in self.floats

    def as_float(self, name: str, dtype: Array | None = None) -> str:
        """A value of integer type as a float, a rounding before it undone where that can be seen."""
        if name in self.floats:
            return name
        kind = np.dtype(np.float32) if dtype is None else dtype.dtype
        if (known := self.constants.get(name)) is not None:
            return self.constant(known.astype(kind), self.named_after(name), of=name)
        cast = self.producers.get(name)
        if cast is not None and cast.op_type == "Cast":
            rounding = self.producers.get(cast.input[0])
            if rounding is not None and rounding.op_type in _ROUNDINGS:
                return str(rounding.input[0])
        return self.emit("Cast", [name], to=helper.np_dtype_to_tensor_dtype(kind))

    def steps(self, name: str, zero: str, axis: int) -> str | None:
        """q - zero point; a zero point for each index along `axis` is known for constants only."""
        known, offset = self.constants.get(name), self.constants.get(zero)
        if known is not None and (not zero or offset is not None):
            steps = real_values(known, np.ones(1, np.float32), offset, axis)
            return self.constant(steps, self.named_after(name), of=name)
        if self.has_no_zero(zero):
            return self.as_float(name)
        if offset is not None and offset.size > 1:
            return None
        single = (
            self.constant(np.asarray(offset.item(), np.float32))
            if offset is not None
            else self.as_float(zero)
        )
        return self.emit("Sub", [self.as_float(name), single])

    def real(self, name: str, scale: str, zero: str, axis: int, output: str = "") -> str | None:
        """(q - zero point) * scale; a constant where all three are."""
        known, factor = self.constants.get(name), self.constants.get(scale)
        offset = self.constants.get(zero)
        if known is not None and factor is not None and (not zero or offset is not None):
            floats = output or self.named_after(name)
            return self.constant(real_values(known, factor, offset, axis), floats, of=name)
        if name not in self.floats or (factor is not None and factor.size > 1):
            return None
        if self._is_undone(name, factor, offset if zero else np.zeros(())):
            return self._saturated(name, output)
        steps = self.steps(name, zero, axis)
        if steps is None:
            return None
        by = self.constant(factor.reshape(())) if factor is not None else scale
        return self.emit("Mul", [steps, by], output)

    def _is_undone(self, name: str, factor: Array | None, offset: Array | None) -> bool:
        """Whether a value was quantised with these very parameters."""
        made = self._quantized.get(name)
        if made is None or factor is None or offset is None or offset.size > 1:
            return False
        return bool(made.factor == factor.item() and made.shift == offset.item())

    def _saturated(self, name: str, output: str) -> str:
        """What was quantised, but for both ends of the integers' range: the same value for all readers."""
        made, known = self._quantized[name], self._reals.get(name)
        if known is not None:
            return self.emit("Identity", [known], output) if output else known
        lowest, highest = (np.asarray(end * made.factor, made.factor.dtype) for end in made.ends)
        self._reals[name] = self.saturate(made.real, lowest, highest, output)
        return self._reals[name]

    def move(self, node: NodeProto) -> None:
        """Take what was quantised along where a node takes the integers."""
        made = self._quantized.get(node.input[0])
        if made is None:
            return
        moved = NodeProto()
        moved.CopyFrom(node)
        moved.input[0] = self._saturated(node.input[0], "")
        moved.name = f"{node.name or node.output[0]}.real"
        moved.output[:] = [name and f"{name}.real" for name in node.output]
        self.nodes.append(moved)
        for name, real in zip(node.output, moved.output, strict=True):
            self._quantized[name], self._reals[name] = replace(made, real=real), real

    def quantize(self, real: str, scale: str, zero: str, elem_type: int, output: str) -> bool:
        """real / scale + zero point, saturated but not rounded; the parameters must be known numbers."""
        factor, offset = self.constants.get(scale), self.constants.get(zero)
        is_known = factor is not None and factor.size == 1 and (not zero or offset is not None)
        if not is_known or elem_type not in INTEGERS or (offset is not None and offset.size > 1):
            return False
        assert factor is not None
        shift = 0.0 if offset is None else float(offset.item())
        value = self.emit("Div", [real, self.constant(factor.reshape(()))])
        if zero:
            value = self.emit("Add", [value, self.constant(np.asarray(shift, factor.dtype))])
        lowest, highest = (np.asarray(end + shift, factor.dtype) for end in ends(elem_type, shift))
        self.saturate(value, lowest, highest, output)
        self.floats[output] = elem_type
        self._quantized[output] = _Quantized(real, factor.reshape(()), shift, ends(elem_type, shift))
        return True

    def saturate(self, value: str, lowest: Array, highest: Array, output: str) -> str:
        """Write a value kept between two numbers: Clip, as Max and Min halve derivatives at these numbers."""
        if self.opset < _CLIP_OF_INPUTS:
            return self.emit("Clip", [value], output, min=float(lowest), max=float(highest))
        return self.emit("Clip", [value, self.constant(lowest), self.constant(highest)], output)

    def rounded(self, node: NodeProto) -> NodeProto:
        """A node as it was, with unrounded inputs rounded before it."""
        copy = NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(node.input):
            if name in self.floats:
                copy.input[index] = self.emit("Cast", [self.emit("Round", [name])], to=self.floats[name])
        return copy

    def stays_inside(self, names: Iterable[str], is_end: Callable[[NodeProto], bool]) -> bool:
        """Whether all that is computed from these integers ends as floats, by operators that are known."""
        pending, seen = [name for name in names if name], set[str]()
        while pending:
            name = pending.pop()
            if name in self.results:
                return False
            for node in self.readers.get(name, ()):
                if is_end(node):
                    continue
                if node.op_type not in HANDED_ON:
                    return False
                pending += [output for output in node.output if output and output not in seen]
                seen.update(node.output)
        return True


THROUGH = frozenset(
    {"DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "MaxPool"}
    | {"Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
"""Operators that take the elements of their first input somewhere else."""
ARITHMETIC = frozenset(["Add", "Concat", "Max", "Min", "Mul", "Relu", "Sub"])
"""Operators that mean the same for integers and for floats, in all of their inputs."""
HANDED_ON = THROUGH | ARITHMETIC | {"MatMulInteger", "ConvInteger"}
"""Operators with integers as inputs and integers as outputs."""

_CONV = {"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"}
_ATTRIBUTES: dict[str, set[str]] = {
    "Conv": _CONV,
    "MatMul": set(),
    "Add": set(),
    "Mul": set(),
    "Where": set(),
    "Sigmoid": set(),
    "LeakyRelu": {"alpha"},
    "Softmax": {"axis"},
    "Concat": {"axis"},
    "GlobalAveragePool": set(),
    "AveragePool": {*_CONV, "ceil_mode", "count_include_pad"} - {"group"},
    "Gemm": {"alpha", "transA", "transB"},
}


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node as Python values."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute if a.type != AttributeProto.GRAPH}


def elem_type_of(array: Array | None) -> int:
    """The type of a zero point; uint8 where there is none."""
    return TensorProto.UINT8 if array is None else int(helper.np_dtype_to_tensor_dtype(array.dtype))
