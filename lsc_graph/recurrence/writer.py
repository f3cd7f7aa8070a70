"""Writing nodes into an ONNX graph, with readable names that stay unique."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.rewiring import inner_graphs

Dim = int | ir.SymbolicDim | None
Dims = Sequence[Dim] | ir.Shape
Attribute = int | float | str | Sequence[int] | ir.TensorProtocol | ir.Graph


class Names:
    """The names of a model's values and nodes, those in nested graphs included.

    Names are told apart as the Python identifiers that they become in torch: `a.b` clashes with `a/b`.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._values = Counter(_key(value.name) for value in values_in(graph) if value.name)
        self._nodes = Counter(_key(node.name) for node in graph.all_nodes() if node.name)

    def unique_prefix(self, name: str, *, for_node: bool = False) -> str:
        """`name`, numbered if a name in use already starts with it and a dot; taken from now on.

        If it is `for_node`, it is no other node's name either.
        """
        candidate, count = name, 1
        while self._is_prefix(_key(candidate) + "_") or (for_node and self._nodes[_key(candidate)]):
            count += 1
            candidate = f"{name}_{count}"
        self._values[_key(candidate) + "_"] += 1
        return candidate

    def renew(self, graph: ir.Graph) -> None:
        """Rename the values and nodes of a nested graph whose names are used elsewhere in the model too."""
        for value in list(values_in(graph)):
            if value.name:
                _rename(value, _renewed(value.name, self._values))
        for node in graph.all_nodes():
            if node.name:
                node.name = _renewed(node.name, self._nodes)

    def _is_prefix(self, start: str) -> bool:
        return any(key.startswith(start) for counter in (self._values, self._nodes) for key in counter)


def _rename(value: ir.Value, name: str) -> None:
    if value.name == name:
        return
    tensor = value.const_value
    if tensor is not None:  # its name may be that in the TensorProto of the caller's model
        value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
    value.name = name


def _renewed(name: str, used: Counter[str]) -> str:
    used[_key(name)] -= 1
    candidate, count = name, 1
    while used[_key(candidate)] > 0:
        count += 1
        candidate = f"{name}_{count}"
    used[_key(candidate)] += 1
    return candidate


class GraphWriter:
    """Collects new nodes; every node is named after its first output, `<prefix>.<name>`.

    Args:
        prefix: start of every name; no other name of the model may start with it.
        dtype: type of the values, unless an operation says otherwise.
    """

    def __init__(self, prefix: str, dtype: ir.DataType | None) -> None:
        self.prefix, self.dtype = prefix, dtype
        self.nodes: list[ir.Node] = []
        self._taken: set[str] = set()
        self._counts: dict[str, int] = {}
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
        shape: Dims | None = None,
        dtype: ir.DataType | None = None,
        **attributes: Attribute,
    ) -> ir.Value:
        """Append a node with one output and return that output."""
        output = self.value(name, shape, dtype)
        self.append(op_type, inputs, [output], **attributes)
        return output

    def repeat(self, nodes: Iterable[ir.Node], known: dict[ir.Value, ir.Value]) -> None:
        """Append copies of nodes that read what `known` has for their inputs; it grows by their outputs."""
        for node in nodes:
            outputs = [self.value(str(v.name), v.shape, v.dtype) for v in node.outputs]
            for own, original in zip(outputs, node.outputs, strict=True):
                own.type = original.type  # a list of tensors stays one, and what is not known stays unknown
            copy = ir.Node(
                node.domain,
                node.op_type,
                [known.get(value, value) if value is not None else None for value in node.inputs],
                attributes=list(node.attributes.values()),
                outputs=outputs,
                name=outputs[0].name,
                metadata_props=dict(node.metadata_props),
            )
            self.nodes.append(copy)
            known |= dict(zip(node.outputs, outputs, strict=True))

    def discard(self) -> None:
        """Let the nodes read nothing, for they will not be part of the graph: its values get rid of them."""
        for node in self.nodes:
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)

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

    def value(self, name: str, shape: Dims | None = None, dtype: ir.DataType | None = None) -> ir.Value:
        """A new value, not yet computed by any node."""
        known = ir.Shape(shape) if shape is not None else None
        return ir.val(self._name(name), dtype=dtype or self.dtype, shape=known)

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
        assert self.dtype is not None
        return self.constant(np.array(number, dtype=self.dtype.numpy()), "constant")

    def integers(self, numbers: Sequence[int]) -> ir.Value:
        """A one-dimensional int64 constant."""
        return self.constant(np.array(numbers, dtype=np.int64), "integers")

    def scalar(self, number: int) -> ir.Value:
        """An int64 constant without axes."""
        return self.constant(np.array(number, dtype=np.int64), "index")

    def constant(self, array: np.ndarray, name: str) -> ir.Value:
        """The output of a Constant node (not an initializer, which would count as a weight)."""
        key = (array.tobytes(), str(array.dtype), array.shape)
        if key not in self._constants:
            tensor = ir.tensor(array, name=name)
            self._constants[key] = self.op("Constant", [], name, array.shape, tensor.dtype, value=tensor)
        return self._constants[key]

    def _name(self, name: str) -> str:
        key = _key(name)
        candidate, count = name, self._counts.get(key, 1)
        while _key(candidate) in self._taken:
            count += 1
            candidate = f"{name}_{count}"
        self._counts[key] = count
        self._taken.add(_key(candidate))
        return f"{self.prefix}.{candidate}"


def replace_output(old: ir.Value, new: ir.Value) -> None:
    """Let `new` take the place and the name of `old`, whose node is to be removed afterwards."""
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
        for nested in inner_graphs(node):
            yield from values_in(nested)


def _key(name: str) -> str:
    return re.sub(r"\W", "_", name)
