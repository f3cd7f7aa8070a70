"""Values that no input reaches, told apart by what they hold: equal copies of a weight are one weight."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Sequence

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.dataflow import inputs_of

_MIN_ELEMENTS = 2
_FEWEST_COUNTED = 3
_OFFSET = "lsc_graph.offset"


class Constants:
    """The constant values of a graph: initializers, and what is computed from them alone.

    With `ties_numbers`, single numbers that are equal have one key, too, though they stand in the file apart.
    """

    def __init__(self, graph: ir.Graph, *, ties_numbers: bool = False) -> None:
        self._graph = graph
        self._ties_numbers = ties_numbers
        self._values: set[ir.Value] = set(graph.initializers.values())
        self._keys: dict[ir.Value, Hashable] = {}
        self._zeros: dict[ir.Value, bool] = {}
        for node in graph:
            sources = list(inputs_of(node))
            is_constant = node.op_type == "Constant" if not sources else self._values.issuperset(sources)
            if is_constant:
                self._values.update(node.outputs)

    def __contains__(self, value: object) -> bool:
        return value in self._values

    def key(self, value: ir.Value) -> Hashable:
        """Equal for values that are the same, or hold the same numbers without being all alike.

        Two tensors of zeros, or of ones, may well be different parameters; two equal matrices of
        different numbers are copies.
        """
        if value not in self._keys:
            number = _number(value) if self._ties_numbers else None
            self._keys[value] = number or _content(value) or self._derived(value) or id(value)
        return self._keys[value]

    def _derived(self, value: ir.Value) -> Hashable | None:
        """How a constant is computed, if it is."""
        node = value.producer()
        if node is None or value not in self._values:
            return None
        inputs = tuple(self._operand(source) if source is not None else None for source in node.inputs)
        return (node.domain, node.op_type, attributes_of(node), value.index(), inputs)

    def _operand(self, value: ir.Value) -> Hashable:
        """The key of what a constant is computed from; that of bounds and single numbers is their value."""
        tensor = _tensor(value)
        if tensor is not None and (tensor.size < _MIN_ELEMENTS or not tensor.dtype.is_floating_point()):
            return _digest(tensor)
        return self.key(value)

    def same(self, first: ir.Value, second: ir.Value) -> bool:
        """Whether two values hold the same, constants that are alike included."""
        if first is second:
            return True
        if first not in self._values or second not in self._values:
            return False
        one, two = self.array(first), self.array(second)
        if one is None or two is None:
            return self.key(first) == self.key(second)
        return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()

    def alike(self, first: ir.Value | None, second: ir.Value | None) -> bool:
        """Whether two constants may stand in one place at two steps: small ones of one shape may differ.

        So may what is computed from such, however it is, as a gate that a clock opens.
        """
        if first is None or second is None:
            return first is second
        if self.same(first, second):
            return True
        if not (self.is_weight(first) and self.is_weight(second)) or self.is_matrix(first):
            return False
        one, two = self._shape(first), self._shape(second)
        return first.dtype == second.dtype and one is not None and one == two

    def _shape(self, value: ir.Value) -> tuple[int, ...] | None:
        array = self.array(value)
        return array.shape if array is not None else static_shape(value)

    def array(self, value: ir.Value) -> np.ndarray | None:
        """What an initializer or a Constant holds."""
        tensor = _tensor(value)
        return np.asarray(tensor.numpy()) if tensor is not None else None

    def going_on(self, values: Sequence[ir.Value], before: int, after: int) -> tuple[ir.Value, ...] | None:
        """Numbers that count, with some more at the start and at the end; None if these do not count.

        As steps count that ask whether a sequence has ended: the last one may ask for nobody.
        """
        arrays = [self.array(value) for value in values]
        known = [own for own in arrays if own is not None]
        if len(known) < max(len(arrays), _FEWEST_COUNTED) or len({own.shape for own in known}) > 1:
            return None
        steps = np.diff(np.stack(known).astype(np.float64), axis=0)
        if not steps[0].any() or (steps != steps[0]).any() or (steps != np.round(steps)).any():
            return None
        by = steps[0].astype(known[0].dtype)
        first = [self._new(values[0], known[0] - (before - i) * by) for i in range(before)]
        return (*first, *values, *(self._new(values[-1], known[-1] + (i + 1) * by) for i in range(after)))

    def _new(self, like: ir.Value, numbers: np.ndarray) -> ir.Value:
        """A constant in the graph, named after another one."""
        array = np.asarray(numbers)
        name, count = f"{like.name}.on", 1
        while (known := self._graph.initializers.get(name)) is not None:
            held = self.array(known)
            if held is not None and held.dtype == array.dtype and np.array_equal(held, array):
                break
            count += 1
            name = f"{like.name}.on_{count}"
        value = known if known is not None else ir.val(name, const_value=ir.tensor(array, name=name))
        self._graph.initializers[name] = value
        self._values.add(value)
        return value

    def is_weight(self, value: ir.Value) -> bool:
        """Whether a constant is floating-point."""
        dtype = value.dtype or (value.const_value.dtype if value.const_value is not None else None)
        return value in self._values and dtype is not None and dtype.is_floating_point()

    def is_matrix(self, value: ir.Value) -> bool:
        """Whether a constant is floating-point and extends along more than one axis, or may do so.

        Offsets are none: every step has its own.
        """
        if is_offset(value):
            return False
        dims = value.const_value.shape if value.const_value is not None else value.shape
        return self.is_weight(value) and (dims is None or sum(dim != 1 for dim in dims) > 1)

    def is_uniform(self, value: ir.Value) -> bool:
        """Whether a constant holds one number again and again, as zeros that a state starts from."""
        array = self.array(value)
        return array is not None and bool((array == array.reshape(-1)[:1]).all())

    def is_zero(self, value: ir.Value) -> bool:
        """Whether a constant is known to hold nothing but zeros."""
        if value not in self._zeros:
            array = self.array(value)
            self._zeros[value] = array is not None and not array.reshape(-1)[:1].any() and not array.any()
        return self._zeros[value]

    def num_elements(self, value: ir.Value) -> int:
        """Its size; 0 where that is not known."""
        if value.const_value is not None:
            return int(value.const_value.size)
        return math.prod(static_shape(value) or (0,))


def mark_offset(value: ir.Value, evidence: str) -> None:
    """Note that a constant is what one step adds to a value, so that it is what the file has there."""
    value.metadata_props[_OFFSET] = evidence


def is_offset(value: ir.Value) -> bool:
    """Whether a constant was noted as such."""
    return _OFFSET in value.metadata_props


def evidence_of(value: ir.Value) -> str | None:
    """What was noted with it."""
    return value.metadata_props.get(_OFFSET)


def attributes_of(node: ir.Node) -> tuple[tuple[str, str], ...]:
    """A node's attributes as text that is equal for equal attributes."""
    pairs = ((name, f"{given.type}:{given.value}") for name, given in node.attributes.items())
    return tuple(sorted(pairs))


def _tensor(value: ir.Value) -> ir.TensorProtocol | None:
    node = value.producer()
    if node is not None and node.op_type == "Constant" and "value" in node.attributes:
        return node.attributes["value"].as_tensor()
    return value.const_value if value.is_initializer() else None


def _number(value: ir.Value) -> Hashable | None:
    tensor = _tensor(value)
    return None if tensor is None or tensor.size >= _MIN_ELEMENTS else _digest(tensor)


def _content(value: ir.Value) -> Hashable | None:
    tensor = _tensor(value)
    if tensor is None or tensor.size < _MIN_ELEMENTS:
        return None
    array = np.asarray(tensor.numpy())
    if (array == array.reshape(-1)[0]).all():
        return None
    return _digest(tensor)


def _digest(tensor: ir.TensorProtocol) -> Hashable:
    array = np.asarray(tensor.numpy())
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return (str(array.dtype), array.shape, digest)
