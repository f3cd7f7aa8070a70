"""The dataflow that gradients take: integers, truth values and sizes hand none on, nor does what is held."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cache

import networkx as nx
import onnx_ir as ir

from lsc_graph.recurrence.dataflow import inputs_of

_SOURCE, _SINK = "<inputs>", "<output> "
_READS_WEIGHTS = frozenset(("Gather", "GatherND", "MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum"))
"""Operators by which integers enter a network: those that look weights up, or multiply them."""


class GradientFlow:
    """Which values of a graph gradients reach, by name, and what each of them is differentiated by.

    A value that is computed from floating-point ones is differentiated by these alone: a mask beside them,
    or an index, is held. What has no floating-point source is one where weights enter, as in embeddings of
    tokens; before that, as in masks made of token numbers, it is only followed if nothing else is there.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.inputs = {str(value.name) for value in graph.inputs}
        self.outputs = list(dict.fromkeys(str(value.name) for value in graph.outputs))
        self.values = {str(value.name): value for node in graph for value in node.outputs}
        self.ways: nx.DiGraph[str] = nx.DiGraph()
        self.ways.add_nodes_from((_SOURCE, *self.inputs))
        self.carrying = {str(value.name) for value in graph.inputs if is_float(value)}
        for node in graph:
            self._add(node)
        self.ways.add_edges_from((name, _SINK + name) for name in self.outputs if self.depends_on_input(name))

    def _add(self, node: ir.Node) -> None:
        given = [value for value in inputs_of(node) if self.depends_on_input(str(value.name))]
        if not given:
            return
        sources = {str(value.name) for value in given} & self.carrying
        is_carrying = bool(sources) or (
            node.op_type in _READS_WEIGHTS
            and any(is_weight(own) for own in inputs_of(node) if own not in given)
        )
        for out in node.outputs:
            name = str(out.name)
            self.ways.add_edges_from((source, name) for source in sources or (str(v.name) for v in given))
            if is_carrying and is_float(out):
                self.carrying.add(name)

    def depends_on_input(self, name: str) -> bool:
        """Whether a value is not the same at every run."""
        return name in self.ways

    def before(self, name: str) -> Iterator[str]:
        """What a value is differentiated by directly, or follows from."""
        yield from (source for source in self.ways.predecessors(name) if source != _SOURCE)

    def sources(self, name: str) -> set[str]:
        """All that a value is computed from directly, constants aside."""
        value = self.values.get(name)
        node = value.producer() if value is not None else None
        read = inputs_of(node) if node is not None else ()
        return {str(own.name) for own in read if self.depends_on_input(str(own.name))}

    def stops_before(self, name: str, stops: Collection[str]) -> set[str]:
        """Those of `stops` that the gradient of a value reaches without passing another one."""
        found, seen, pending = set[str](), {name}, [name] if self.depends_on_input(name) else []
        while pending:
            for source in self.before(pending.pop()):
                if source in stops:
                    found.add(source)
                elif source not in seen:
                    seen.add(source)
                    pending.append(source)
        return found

    def reads_weights(self, name: str) -> bool:
        """Whether a weight enters where a value is computed."""
        value = self.values.get(name)
        node = value.producer() if value is not None else None
        return node is not None and any(
            is_weight(own) for own in inputs_of(node) if not self.depends_on_input(str(own.name))
        )


class FromInputs:
    """The part of a flow that starts at some inputs of the model."""

    def __init__(self, flow: GradientFlow, sources: Sequence[str]) -> None:
        self.flow, self.sources = flow, tuple(sources)
        self._root, ways = sources[0] if len(sources) == 1 else _SOURCE, flow.ways
        if self._root == _SOURCE:
            ways = ways.copy()
            ways.add_edges_from((_SOURCE, name) for name in sources)
        self._above = nx.immediate_dominators(ways, self._root)
        self.has_weights = cache(self._has_weights)

    def dominators_of(self, output: str) -> list[str]:
        """The values that every way to an output of the model passes, in order."""
        chain, name = [], self._above.get(_SINK + output)
        while name is not None and name != self._root:
            chain.append(name)
            name = self._above.get(name)
        return chain[::-1]

    def reach(self, name: str) -> bool:
        """Whether a value is computed from the sources in a way that gradients take."""
        return name in self._above

    def _has_weights(self, name: str) -> bool:
        """Whether a weight enters between the dominator before a value and the value."""
        seen, pending = {name}, [name]
        while pending:
            current = pending.pop()
            if self.flow.reads_weights(current):
                return True
            for source in self.flow.before(current):
                if source in self._above and source != self._above[name] and source not in seen:
                    seen.add(source)
                    pending.append(source)
        return False


def is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


def is_weight(value: ir.Value) -> bool:
    """A floating-point matrix or kernel: an initializer or computed from initializers alone."""
    if _is_filled(value):
        return False
    shape = (
        value.shape if value.shape is not None else (value.const_value.shape if value.const_value else None)
    )
    return is_float(value) and shape is not None and sum(dim != 1 for dim in shape) >= 2


def _is_filled(value: ir.Value) -> bool:
    """Whether all elements are one number that is no weight, as in the zeros of a padding."""
    node = value.producer()
    while node is not None and node.op_type in ("Cast", "CastLike", "Expand", "Identity", "Reshape"):
        source = node.inputs[0]
        node = source.producer() if source is not None else None
    return node is not None and node.op_type == "ConstantOfShape"
