"""Surrogate derivatives: what stands in for the derivative of a threshold that is zero almost everywhere.

A comparison that feeds a number, as in a spiking neuron, becomes an operator of our own that computes the
same number and has the chosen derivative (paper section 2, "surrogate gradients").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import onnx_ir as ir

from lsc_graph.errors import UsageError
from lsc_graph.recurrence.thresholds import COMPARISONS, cut_points

DOMAIN, SPIKE = "lsc_graph", "Spike"
_LAYOUT = frozenset(("Identity", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Expand"))


class Shape(StrEnum):
    """The derivative by the distance u from the threshold; g is the dampening, b the sharpness."""

    FAST_SIGMOID = "fast-sigmoid"
    """g / (1 + b |u|)^2: F. Zenke, S. Ganguli, "SuperSpike", Neural Computation 2018, arXiv 1705.11146."""
    TRIANGLE = "triangle"
    """g max(0, 1 - b |u|): G. Bellec et al., "LSNN", NeurIPS 2018, arXiv 1803.09574."""
    EXPONENTIAL = "exponential"
    """g exp(-b |u|): S. B. Shrestha, G. Orchard, "SLAYER", NeurIPS 2018, arXiv 1810.08646."""


DEFAULTS: Mapping[Shape, tuple[float, float]] = {
    Shape.FAST_SIGMOID: (1.0, 10.0),
    Shape.TRIANGLE: (0.3, 1.0),
    Shape.EXPONENTIAL: (1.0, 10.0),
}
"""Dampening and sharpness. Fast sigmoid: F. Zenke, T. P. Vogels, Neural Computation 33, 2021 (b = 10).
Triangle: Bellec et al. 2018 (g = 0.3). Exponential: ours, with the width of the fast sigmoid."""


@dataclass(frozen=True)
class Surrogate:
    """A surrogate derivative. Dampening is its value at the threshold, sharpness its inverse width."""

    shape: Shape
    dampening: float
    sharpness: float

    def __str__(self) -> str:
        return f"{self.shape.value} (dampening {self.dampening:g}, sharpness {self.sharpness:g})"


def parse_surrogate(
    name: str | None, dampening: float | None = None, sharpness: float | None = None
) -> Surrogate | None:
    """A surrogate by name, with its defaults where nothing else is given; None for "none".

    Raises:
        UsageError: no such surrogate, or numbers that make none.
    """
    if name in (None, "none"):
        if dampening is not None or sharpness is not None:
            raise UsageError("Dampening and sharpness belong to a surrogate", do="add --surrogate NAME")
        return None
    try:
        shape = Shape(str(name))
    except ValueError as error:
        names = ", ".join(shape.value for shape in Shape)
        raise UsageError("There is no such surrogate", got=str(name), expected=f"{names} or none") from error
    default = DEFAULTS[shape]
    surrogate = Surrogate(
        shape,
        default[0] if dampening is None else dampening,
        default[1] if sharpness is None else sharpness,
    )
    if not (surrogate.dampening > 0 and surrogate.sharpness > 0):
        raise UsageError("Dampening and sharpness of a surrogate must be positive", got=str(surrogate))
    return surrogate


def use_surrogate(
    graph: ir.Graph,
    sources: Iterable[ir.Value],
    surrogate: Surrogate,
    captured: Mapping[str, ir.TensorProtocol] | None = None,
) -> tuple[ir.Node, ...]:
    """Give the thresholds that cut the gradient from `sources` a derivative, in place.

    Values stay what they are, to the last bit. Roundings, and comparisons for equality, stay cut.

    Args:
        graph: where.
        sources: the values that the gradient is taken by.
        surrogate: the derivative.
        captured: what inputs of the graph always are, by name.

    Returns:
        The comparisons (and Sign operators) that have one now.
    """
    done = []
    for node in cut_points(graph, sources):
        is_float = node.inputs[0] is not None and node.inputs[0].dtype in _FLOATS
        if node.op_type == "Sign" and is_float:
            _replace_sign(graph, node, surrogate)
            done.append(node)
        elif node.op_type in COMPARISONS - {"Equal"} and is_float:
            numbers = _Numbers(graph, node, surrogate, captured or {})
            if numbers.replace_uses(node.outputs[0], numbers.spike()):
                done.append(node)
    return tuple(done)


_FLOATS = frozenset((ir.DataType.FLOAT, ir.DataType.DOUBLE))


def _spike(
    graph: ir.Graph, node: ir.Node, inputs: list[ir.Value], kind: str, surrogate: Surrogate
) -> ir.Value:
    attributes = [
        ir.AttrString("kind", kind),
        ir.AttrString("surrogate", surrogate.shape.value),
        ir.AttrFloat32("dampening", surrogate.dampening),
        ir.AttrFloat32("sharpness", surrogate.sharpness),
    ]
    new = ir.Node(DOMAIN, SPIKE, inputs, attributes, name=f"{node.name or node.outputs[0].name}.spike")
    new.outputs[0].name = f"{node.outputs[0].name}.spike"
    new.outputs[0].shape = node.outputs[0].shape
    new.outputs[0].type = ir.TensorType(inputs[0].dtype or ir.DataType.FLOAT)
    graph.insert_before(node, new)
    return new.outputs[0]


def _replace_sign(graph: ir.Graph, node: ir.Node, surrogate: Surrogate) -> None:
    value = node.inputs[0]
    assert value is not None
    _stand_in(node, _spike(graph, node, [value], "Sign", surrogate))


def _stand_in(node: ir.Node, value: ir.Value) -> None:
    """Put a copy of `value` where a node was, under the name of its output."""
    output, graph = node.outputs[0], node.graph
    assert graph is not None
    copy = ir.Node("", "Identity", [value])
    copy.outputs[0].shape, copy.outputs[0].type = output.shape, output.type
    graph.insert_before(node, copy)
    ir.convenience.replace_all_uses_with(output, copy.outputs[0], replace_graph_outputs=True)
    graph.remove(node, safe=True)
    name, output.name = output.name, None
    copy.outputs[0].name = copy.name = name


class _Numbers:
    """The numbers 0 and 1 in place of the booleans that follow from one comparison."""

    def __init__(
        self,
        graph: ir.Graph,
        node: ir.Node,
        surrogate: Surrogate,
        captured: Mapping[str, ir.TensorProtocol],
    ) -> None:
        self.graph, self.node, self.surrogate, self.captured = graph, node, surrogate, captured

    def spike(self) -> ir.Value:
        a, b = self.node.inputs[:2]
        assert a is not None
        assert b is not None
        return _spike(self.graph, self.node, [a, b], self.node.op_type, self.surrogate)

    def replace_uses(self, flag: ir.Value, number: ir.Value) -> bool:
        """Let every reader that makes a number of `flag` read `number`; True if there was any."""
        found = False
        for use in list(flag.uses()):
            node = use.node
            if node.graph is None:
                continue  # it read the flag twice
            output = node.outputs[0]
            if node.op_type == "Cast":
                found |= self._cast(node, number)
            elif node.op_type == "Not":
                found |= self.replace_uses(output, self._insert(node, "Sub", [self._one(number), number]))
            elif node.op_type in ("And", "Or", "Xor"):
                found |= self.replace_uses(output, self._combined(node, use.idx, number))
            elif node.op_type in _LAYOUT and use.idx == 0:
                inputs = [number, *node.inputs[1:]]
                found |= self.replace_uses(output, self._insert(node, node.op_type, inputs, node.attributes))
            elif node.op_type == "Where" and use.idx == 0:
                found |= self._selected(node, number)
            self._remove_unread(node)
        return found

    def _remove_unread(self, node: ir.Node) -> None:
        """Logic that nothing reads any longer: it would make a number of the next threshold that it reads."""
        output = node.outputs[0]
        if node.graph is not None and not output.uses() and not output.is_graph_output():
            self.graph.remove(node, safe=True)

    def _cast(self, node: ir.Node, number: ir.Value) -> bool:
        """A cast of 0 or 1 to a float, perhaps by way of integers."""
        output, wanted = node.outputs[0], ir.DataType(node.attributes["to"].as_int())
        if wanted == number.dtype:
            _stand_in(node, number)
            return True
        if wanted.is_floating_point():
            _stand_in(node, self._insert(node, "Cast", [number], node.attributes, wanted))
            return True
        is_found = False
        for cast in [use.node for use in output.uses() if use.node.op_type == "Cast"]:
            is_found |= self._cast(cast, number)
        if not output.uses() and not output.is_graph_output():
            self.graph.remove(node, safe=True)
        return is_found

    def _combined(self, node: ir.Node, index: int, number: ir.Value) -> ir.Value:
        """And, Or and Xor of 0 and 1 by arithmetic, exactly."""
        other = node.inputs[1 - index]
        to = {"to": ir.AttrInt64("to", int(number.dtype or ir.DataType.FLOAT))}
        same = other is node.inputs[index]
        second = number if same else self._insert(node, "Cast", [other], to)
        both = self._insert(node, "Mul", [number, second])
        if node.op_type == "And":
            return both
        total = self._insert(node, "Add", [number, second])
        left = both if node.op_type == "Or" else self._insert(node, "Add", [both, both])
        return self._insert(node, "Sub", [total, left])

    def _selected(self, node: ir.Node, number: ir.Value) -> bool:
        """Where(flag, x, y) with constants x and y is y + number (x - y), where floats allow it exactly."""
        x, y = (self._constant(value) for value in node.inputs[1:3])
        if x is None or y is None or not np.array_equal(y + (x - y), np.broadcast_to(x, (x + y).shape)):
            return False
        step = self._insert(node, "Sub", node.inputs[1:3])
        step.shape = ir.Shape((x - y).shape)
        scaled = self._insert(node, "Mul", [number, step])
        _stand_in(node, self._insert(node, "Add", [scaled, node.inputs[2]]))
        return True

    def _constant(self, value: ir.Value | None) -> np.ndarray | None:
        if value is None:
            return None
        tensor = value.const_value or self.captured.get(value.name or "")
        if tensor is None or not tensor.dtype.is_floating_point():
            return None
        return np.asarray(tensor.numpy())

    def _one(self, like: ir.Value) -> ir.Value:
        dtype = (like.dtype or ir.DataType.FLOAT).numpy()
        return self._put(self.node, np.array(1, dtype=dtype))

    def _put(self, node: ir.Node, array: np.ndarray) -> ir.Value:
        return self._insert(node, "Constant", [], {"value": ir.AttrTensor("value", ir.tensor(array))})

    def _insert(
        self,
        before: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, ir.Attr] | None = None,
        dtype: ir.DataType | None = None,
    ) -> ir.Value:
        node = ir.Node("", op_type, inputs, list((attributes or {}).values()))
        self.graph.insert_before(before, node)
        value = node.outputs[0]
        value.name = node.name = f"{before.outputs[0].name}.{op_type.lower()}.{len(self.graph)}"
        value.shape = before.outputs[0].shape if op_type != "Constant" else None
        value.type = ir.TensorType(dtype or ir.DataType.FLOAT)
        return value
