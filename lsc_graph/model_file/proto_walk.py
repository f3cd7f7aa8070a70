"""Every graph and tensor of a ModelProto, without recursion: hostile files nest deeply."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

Scope = GraphProto | FunctionProto


def scopes(root: Scope) -> Iterator[tuple[Scope, int]]:
    """A graph or function and all graphs inside it, each with its nesting depth; the root has depth 0."""
    pending: list[tuple[Scope, int]] = [(root, 0)]
    while pending:
        scope, depth = pending.pop()
        yield scope, depth
        pending += [(inner, depth + 1) for node in scope.node for _, inner in inner_graphs(node)]


def inner_graphs(node: NodeProto) -> Iterator[tuple[str, GraphProto]]:
    """The graphs that a node holds as attributes, with their names ("body", "graphs[1]")."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.name, attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            for index, graph in enumerate(attribute.graphs):
                yield f"{attribute.name}[{index}]", graph


def model_scopes(proto: ModelProto) -> Iterator[Scope]:
    """All graphs of a model, those inside its functions included."""
    for root in (proto.graph, *proto.functions):
        for scope, _ in scopes(root):
            yield scope


def tensors_of(scope: Scope) -> Iterator[TensorProto]:
    """The tensors that one graph holds itself: initializers and attributes, parts of sparse ones too."""
    if isinstance(scope, GraphProto):
        yield from scope.initializer
        for sparse in scope.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in scope.node:
        for attribute in node.attribute:
            yield from attribute_tensors(attribute)


def attribute_tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    """The tensors of one attribute."""
    if attribute.type == AttributeProto.TENSOR:
        yield attribute.t
    elif attribute.type == AttributeProto.TENSORS:
        yield from attribute.tensors
    elif attribute.type == AttributeProto.SPARSE_TENSOR:
        yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
    elif attribute.type == AttributeProto.SPARSE_TENSORS:
        for sparse in attribute.sparse_tensors:
            yield from (sparse.values, sparse.indices)
