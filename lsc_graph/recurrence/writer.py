"""Writing nodes into an ONNX graph, with readable names that stay unique."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from lsc_graph.recurrence.dataflow import subgraphs_of

Dim = int | ir.SymbolicDim | None
Attribute = int | float | str | Sequence[int] | ir.TensorProtocol | ir.Graph


class Names:
    """The names in use in a model, values and nodes of nested graphs included.

    Names are compared as the Python identifiers that they become in torch (`a.b` clashes with `a/b`).
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._keys: set[str] = set()
        self.add(graph)

    def add(self, graph: ir.Graph) -> None:
        """Take note of every name in `graph`."""
        self._keys |= {_key(name) for name in _names_in(graph)}

    def unique(self, name: str) -> str:
        """`name`, with a number behind it if it is taken; the answer counts as taken from now on."""
        return self._claim(name, lambda key: key in self._keys)

    def unique_prefix(self, name: str) -> str:
        """`name`, with a number behind it if some name in use already starts with it and a dot."""
        return self._claim(name, lambda key: any(taken.startswith(f"{key}_") for taken in self._keys))

    def _claim(self, name: str, taken: Callable[[str], bool]) -> str:
        candidate, count = name, 1
        while taken(_key(candidate)):
            count += 1
            candidate = f"{name}_{count}"
        self._keys.add(_key(candidate))
        return candidate


class GraphWriter:
    """Collects new nodes; every node is named after its first output, `<prefix>.<name>`.

    Args:
        prefix: start of every name; no other name of the model may start with it.
        dtype: floating-point type of the values, unless an operation says otherwise.
    """

    def __init__(self, prefix: str, dtype: ir.DataType) -> None:
        self.prefix, self.dtype = prefix, dtype
        self.nodes: list[ir.Node] = []
        self._taken: set[str] = set()
        self._constants: dict[tuple[bytes, str, tuple[int, ...]], ir.Value] = {}

    def child(self, name: str) -> GraphWriter:
        """A writer into the same graph, with a longer prefix."""
        writer = GraphWriter(f"{self.prefix}.{name}", self.dtype)
        writer.nodes = self.nodes
        return writer

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        shape: Sequence[Dim] | None = None,
        dtype: ir.DataType | None = None,
        **attributes: Attribute,
    ) -> ir.Value:
        """Append a node with one output and return that output."""
        output = self.value(name, shape, dtype)
        self.append(op_type, inputs, [output], **attributes)
        return output

    def append(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[ir.Value],
        **attributes: Attribute,
    ) -> ir.Node:
        """Append a node that writes the given values."""
        node = ir.node(op_type, inputs, attributes, outputs=outputs, name=outputs[0].name)
        self.nodes.append(node)
        return node

    def value(
        self, name: str, shape: Sequence[Dim] | None = None, dtype: ir.DataType | None = None
    ) -> ir.Value:
        """A new value, not yet computed by any node."""
        return ir.val(self._name(name), dtype=dtype or self.dtype, shape=shape)

    def split(
        self, value: ir.Value, sizes: Sequence[int], axis: int, names: Sequence[str]
    ) -> tuple[ir.Value, ...]:
        """Split with explicit sizes (opset >= 13) along a non-negative axis."""
        before, after = list(value.shape or ())[:axis], list(value.shape or ())[axis + 1 :]
        outputs = [
            self.value(name, [*before, size, *after] if value.shape is not None else None)
            for name, size in zip(names, sizes, strict=True)
        ]
        self.append("Split", [value, self.integers(sizes)], outputs, axis=axis)
        return tuple(outputs)

    def number(self, number: float) -> ir.Value:
        """A scalar constant of the writer's floating-point type."""
        return self.constant(np.array(number, dtype=self.dtype.numpy()), "constant")

    def integers(self, numbers: Sequence[int]) -> ir.Value:
        """A one-dimensional int64 constant."""
        return self.constant(np.array(numbers, dtype=np.int64), "integers")

    def constant(self, array: np.ndarray, name: str) -> ir.Value:
        """The output of a Constant node (not an initializer, which would count as a weight)."""
        key = (array.tobytes(), str(array.dtype), array.shape)
        if key not in self._constants:
            tensor = ir.tensor(array, name=name)
            self._constants[key] = self.op("Constant", [], name, array.shape, tensor.dtype, value=tensor)
        return self._constants[key]

    def _name(self, name: str) -> str:
        candidate, count = name, 1
        while _key(candidate) in self._taken:
            count += 1
            candidate = f"{name}_{count}"
        self._taken.add(_key(candidate))
        return f"{self.prefix}.{candidate}"


def replace_output(old: ir.Value, new: ir.Value) -> None:
    """Let `new` take the place of `old` everywhere, under the name of `old`, whose node must go afterwards."""
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    name, old.name = old.name, None
    new.name = name
    if old.shape is not None:
        new.shape = old.shape
    if old.dtype is not None:
        new.dtype = old.dtype


def values_in(graph: ir.Graph) -> Iterator[ir.Value]:
    """Every value that a graph defines, those of nested graphs included."""
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
        for nested in subgraphs_of(node):
            yield from values_in(nested)


def _names_in(graph: ir.Graph) -> Iterator[str]:
    yield from (value.name for value in values_in(graph) if value.name)
    yield from (node.name for node in graph.all_nodes() if node.name)


def _key(name: str) -> str:
    return re.sub(r"\W", "_", name)
