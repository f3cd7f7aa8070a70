"""What the values of a body are computed from, as keys that are equal for equal values."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import onnx_ir as ir

from lsc_graph.canonical.rewiring import inner_graphs
from lsc_graph.recurrence.unrolled.constants import Constants, attributes_of

_RANDOM = ("Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomUniform", "RandomNormalLike",
           "RandomUniformLike")  # fmt: skip


class ValueKeys:
    """Keys of the values of a body.

    Args:
        body: whose.
        bound: what stands for inputs of it; others are only equal to themselves.
        constants: of the main graph.
        numbers: those of other bodies, the keys of which are to be comparable.
    """

    def __init__(
        self,
        body: ir.Graph,
        bound: Mapping[ir.Value, Hashable],
        constants: Constants,
        numbers: dict[Hashable, int] | None = None,
    ) -> None:
        self.constants = constants
        self.keys: dict[ir.Value, Hashable] = {}
        self.numbers = {} if numbers is None else numbers
        for value, own in bound.items():
            self.keys[value] = self._number(own)
        for inner in body:
            self._add(inner)

    def of(self, value: ir.Value) -> Hashable:
        """A value's key; values from outside the body are only equal to themselves, but for constants."""
        if value not in self.keys:
            self.keys[value] = self._number(held(value, self.constants))
        return self.keys[value]

    def _add(self, node: ir.Node) -> None:
        inputs = tuple(self.of(value) if value is not None else None for value in node.inputs)
        alone = node.op_type in _RANDOM or inner_graphs(node)
        what: Hashable = id(node) if alone else (node.domain, node.op_type, attributes_of(node), inputs)
        if node.op_type == "Constant":
            what = held(node.outputs[0], self.constants)  # large tensors have short texts
        copied = node.op_type == "Identity" and not node.domain
        for index, value in enumerate(node.outputs):
            self.keys[value] = inputs[0] if copied else self._number((what, index))

    def _number(self, key: Hashable) -> int:
        return self.numbers.setdefault(key, len(self.numbers))


def held(value: ir.Value | None, constants: Constants) -> Hashable:
    """Equal for values that hold the same: here two tensors of zeros do."""
    if value is None:
        return None
    array = constants.array(value)
    return id(value) if array is None else (str(array.dtype), array.shape, array.tobytes())
