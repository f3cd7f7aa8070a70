"""Who is computed from whom, in one graph, values captured by nested graphs included."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import onnx_ir as ir

from lsc_graph.canonical.rewiring import inner_graphs


def inputs_of(node: ir.Node) -> Iterator[ir.Value]:
    """Every value that a node reads: its inputs, and what its subgraphs capture from outside."""
    yield from (value for value in node.inputs if value is not None)
    for graph in inner_graphs(node):
        inner = {value for nested in graph for value in nested.outputs} | set(graph.inputs)
        inner |= set(graph.initializers.values())
        read = [value for nested in graph for value in inputs_of(nested)] + list(graph.outputs)
        yield from (value for value in read if value not in inner)


def ancestors(value: ir.Value) -> Iterator[ir.Value]:
    """A value, and all that it is computed from, each of them once."""
    seen, pending = {value}, [value]
    while pending:
        own = pending.pop()
        yield own
        node = own.producer()
        more = dict.fromkeys(inputs_of(node)) if node is not None else {}
        pending += (source for source in more if source not in seen)
        seen |= more.keys()


def direct_sources(value: ir.Value, stops: Collection[ir.Value]) -> set[ir.Value]:
    """The members of `stops` that `value` is computed from without passing through another one."""
    found: set[ir.Value] = set()
    seen: set[ir.Node] = set()
    pending = [value.producer()]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for source in inputs_of(node):
            if source in stops:
                found.add(source)
            else:
                pending.append(source.producer())
    return found


def computed_from(graph: ir.Graph, sources: Iterable[ir.Value]) -> tuple[list[ir.Node], set[ir.Value]]:
    """The nodes of a graph that are computed from `sources`, in order, and all that depends on these."""
    dependent = set(sources)
    nodes = []
    for node in graph:
        if any(value in dependent for value in inputs_of(node)):
            dependent.update(node.outputs)
            nodes.append(node)
    return nodes, dependent


def depends(value: ir.Value, source: ir.Value) -> bool:
    """Whether `value` is, or is computed from, `source`."""
    return value is source or source in direct_sources(value, {source})


RESHAPING = frozenset(("Flatten", "Reshape", "Squeeze", "Unsqueeze"))
"""Operators that give a value another shape, in the same order."""


def copied(value: ir.Value) -> ir.Value | None:
    """What a value is a copy of: the input of an Identity, of a Concat of one piece, or of an idle Cast."""
    node = value.producer()
    source = node.inputs[0] if node is not None and node.inputs else None
    if node is None or source is None or node.domain not in ("", "ai.onnx"):
        return None
    is_cast = node.op_type == "Cast" and source.dtype == ir.DataType(node.attributes["to"].as_int())
    is_alone = node.op_type == "Concat" and len(node.inputs) == 1
    return source if node.op_type == "Identity" or is_alone or is_cast else None


def original(value: ir.Value) -> ir.Value:
    """What a value is a copy of, if only by way of other copies; else itself."""
    while (source := copied(value)) is not None:
        value = source
    return value


def body_values(graph: ir.Graph) -> dict[str, ir.Value]:
    """Inputs and node outputs of a graph by name."""
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    return {str(value.name): value for value in values}
