"""Feed-forward models: the chain of dominators of the dataflow gives the blocks of depth."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import networkx as nx
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.layers.cells import CellGraph, DepthEdge, Layer, size
from lsc_graph.recurrence.dataflow import inputs_of
from lsc_graph.recurrence.site import StateVariable

_SOURCE, _SINK = "<inputs>", "<outputs>"


@dataclass(frozen=True)
class Chain:
    """Values that every path from the inputs to the outputs passes, one after each block with weights."""

    boundaries: tuple[str, ...]
    cells: CellGraph


def find_chain(model: ir.Model) -> Chain:
    """The blocks of a normalised feed-forward model; each holds one stretch of weights, and T = 1.

    A block is cut off where the next dominating value is computed with weights (floating-point matrices
    or kernels), so that a linear operator and the nonlinearity behind it form one layer. Padding belongs to
    the block that it prepares.
    """
    graph = model.graph
    flow = _dataflow(graph)
    values = {str(value.name): value for node in graph for value in node.outputs}
    chain = [name for name in _dominators(flow) if name in values and _is_float(values[name])]
    boundaries: list[str] = []
    is_open = False
    for name in chain:
        if _has_weights(values[name], set(chain), flow):
            boundaries.append(name)
            is_open = True
        elif is_open and not _is_padded(values[name], flow):
            boundaries[-1] = name
        else:
            is_open = False
    layers = tuple(_layer(index, values[name]) for index, name in enumerate(boundaries))
    edges = tuple(DepthEdge(a.id, b.id) for a, b in pairwise(layers))
    return Chain(tuple(boundaries), CellGraph(layers, edges, 1))


def _dataflow(graph: ir.Graph) -> nx.DiGraph[str]:
    """Values that depend on the inputs, and who is computed from whom."""
    flow: nx.DiGraph[str] = nx.DiGraph()
    flow.add_node(_SINK)
    flow.add_edges_from((_SOURCE, str(value.name)) for value in graph.inputs)
    for node in graph:
        sources = [str(value.name) for value in inputs_of(node) if value.name in flow]
        flow.add_edges_from((source, str(out.name)) for source in sources for out in node.outputs)
    flow.add_edges_from((str(value.name), _SINK) for value in graph.outputs if value.name in flow)
    return flow


def _dominators(flow: nx.DiGraph[str]) -> list[str]:
    """The values on every path from source to sink, in order."""
    above = nx.immediate_dominators(flow, _SOURCE)
    chain, name = [], above.get(_SINK)
    while name is not None and name != _SOURCE:
        chain.append(name)
        name = above.get(name)
    return chain[::-1]


def _is_float(value: ir.Value) -> bool:
    is_float = value.dtype is not None and value.dtype.is_floating_point()
    return is_float and static_shape(value) is not None


def _has_weights(value: ir.Value, chain: set[str], flow: nx.DiGraph[str]) -> bool:
    """Whether a weight enters between the dominator before `value` and `value`."""
    pending, seen = [value.producer()], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for source in inputs_of(node):
            if source.name not in flow:
                if _is_weight(source):
                    return True
            elif source.name not in chain:
                pending.append(source.producer())
    return False


def _is_padded(value: ir.Value, flow: nx.DiGraph[str]) -> bool:
    """Whether a value is another one between constants."""
    node = value.producer()
    if node is None or node.op_type not in ("Pad", "Concat"):
        return False
    return node.op_type == "Pad" or sum(source.name in flow for source in inputs_of(node)) == 1


def _is_filled(value: ir.Value) -> bool:
    """Whether all elements are one number that is no weight, as in the zeros of a padding."""
    node = value.producer()
    while node is not None and node.op_type in ("Cast", "CastLike", "Expand", "Identity", "Reshape"):
        source = node.inputs[0]
        node = source.producer() if source is not None else None
    return node is not None and node.op_type == "ConstantOfShape"


def _is_weight(value: ir.Value) -> bool:
    """A floating-point matrix or kernel: an initializer or computed from initializers alone."""
    if _is_filled(value):
        return False
    shape = (
        value.shape if value.shape is not None else (value.const_value.shape if value.const_value else None)
    )
    is_float = value.dtype is not None and value.dtype.is_floating_point()
    return is_float and shape is not None and sum(dim != 1 for dim in shape) >= 2


def _layer(index: int, value: ir.Value) -> Layer:
    shape = static_shape(value) or ()
    name = str(value.name)
    state = StateVariable(name=name, shape=shape, before=name, after=name, initial=None, final=None)
    return Layer(f"layer_{index}", name, None, (state,), size(shape), 0)
