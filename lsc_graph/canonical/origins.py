"""Where a tensor of a normalised model stands in the file, so that new values can be written back there.

An origin is a path of names. Its last part is the name of an initializer, or of a Constant node's output;
each pair before that leads into an inner graph: the first output of the node that holds it, and the
attribute. A path into a function starts with "function" and the function's domain, name and overload.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import onnx_ir as ir
from onnx import GraphProto, ModelProto, TensorProto

from lsc_graph.model_file.proto_walk import Scope, attribute_tensors, inner_graphs
from lsc_graph.model_file.provenance import STANDS_FOR

KEY = "lsc_graph.origin"
_PLACE = "lsc_graph.place"
_FUNCTION = "function"
Origin = tuple[str, ...]
Range = tuple[int, int]
Place = tuple[int | Range | None, ...]
"""For each of a tensor's first axes an index, or where a part starts and ends; None for the whole axis."""


def origin_of(value: ir.Value) -> Origin | None:
    """Where an initializer of a normalised model comes from; None if it was computed."""
    text = value.metadata_props.get(KEY)
    return None if text is None else tuple(json.loads(text))


def place_of(value: ir.Value) -> Place:
    """Which part of the tensor at its origin an initializer is: () for all of it."""
    stored = json.loads(value.metadata_props.get(_PLACE, "[]"))
    return tuple((own[0], own[1]) if isinstance(own, list) else own for own in stored)


def copy_origin(value: ir.Value, row: ir.Value, axis: int, part: int | Range) -> None:
    """Note that an initializer is the row of another one, `axis` left out, or some of its rows."""
    if KEY not in value.metadata_props:
        return
    rank = len(value.shape or ())
    place = list(place_of(value))
    left = [at for at, own in enumerate(place) if not isinstance(own, int)]
    left += range(len(place), len(place) + rank - len(left))
    place += [None] * (left[axis] + 1 - len(place))
    known = place[left[axis]]
    start = known[0] if isinstance(known, tuple) else 0
    place[left[axis]] = start + part if isinstance(part, int) else (start + part[0], start + part[1])
    row.metadata_props[KEY] = value.metadata_props[KEY]
    row.metadata_props[_PLACE] = json.dumps(place)


def indices_of(place: Place) -> tuple[int | slice, ...]:
    """A place as numpy and torch index with it."""
    return tuple(
        slice(None) if own is None else slice(*own) if isinstance(own, tuple) else own for own in place
    )


def label_of(origin: Origin, place: Place) -> str:
    """The name of a tensor, with the path to it inside inner graphs, and the part that is meant."""
    return "/".join(origin) + (f"[{shown(place)}]" if place else "")


def shown(place: Place) -> str:
    """A place as Python writes an index."""
    parts = (
        ":" if own is None else "{}:{}".format(*own) if isinstance(own, tuple) else str(own) for own in place
    )
    return ", ".join(parts)


def mark_origins(model: ir.Model) -> None:
    """Note on every initializer and every Constant where it stands, before anything is moved or renamed."""
    _mark(model.graph, model.graph.initializers.values(), ())
    for function in model.functions.values():
        _mark(function, (), (_FUNCTION, "::".join(function.identifier())))


def _mark(graph: ir.Graph | ir.Function, initializers: Iterable[ir.Value], path: Origin) -> None:
    for value in initializers:
        value.metadata_props[KEY] = json.dumps((*path, value.name))
    for node in graph:
        if node.op_type == "Constant":
            noted = node.outputs[0].metadata_props
            noted[KEY] = json.dumps((*path, node.outputs[0].name))
            if STANDS_FOR in node.metadata_props:
                noted[STANDS_FOR] = node.metadata_props[STANDS_FOR]
        for name, inner in _inner_graphs(node):
            holder = next((value.name for value in node.outputs if value.name), "")
            _mark(inner, inner.initializers.values(), (*path, str(holder), name))


def _inner_graphs(node: ir.Node) -> list[tuple[str, ir.Graph]]:
    found: list[tuple[str, ir.Graph]] = []
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            found.append((name, attribute.as_graph()))
        elif attribute.type == ir.AttributeType.GRAPHS:
            found += [(f"{name}[{index}]", graph) for index, graph in enumerate(attribute.as_graphs())]
    return found


def tensors_by_origin(proto: ModelProto) -> Iterator[tuple[Origin, TensorProto]]:
    """Every tensor that has an origin: initializers and Constants, in all graphs and functions."""
    pending: list[tuple[Scope, Origin]] = [(proto.graph, ())]
    pending += [(f, (_FUNCTION, "::".join((f.domain, f.name, f.overload)))) for f in proto.functions]
    while pending:
        scope, path = pending.pop()
        if isinstance(scope, GraphProto):
            yield from (((*path, tensor.name), tensor) for tensor in scope.initializer)
        for node in scope.node:
            if node.op_type == "Constant":
                tensors = [tensor for attribute in node.attribute for tensor in attribute_tensors(attribute)]
                yield from (((*path, node.output[0]), tensor) for tensor in tensors[:1])
            holder = next((output for output in node.output if output), "")
            pending += [(graph, (*path, holder, name)) for name, graph in inner_graphs(node)]


def find_tensor(proto: ModelProto, origin: Origin) -> TensorProto | None:
    """The tensor at an origin, to be read or overwritten; None if there is none (or it is a bare number)."""
    *path, name = origin
    scope: Scope | None = proto.graph
    if path[:1] == [_FUNCTION]:
        named = (f for f in proto.functions if "::".join((f.domain, f.name, f.overload)) == path[1])
        scope, path = next(named, None), path[2:]
    while path and scope is not None:
        holder, attribute, *path = path
        scope = _step(scope, holder, attribute)
    return None if scope is None else _tensor_in(scope, name)


def _step(scope: Scope, holder: str, attribute: str) -> GraphProto | None:
    for node in scope.node:
        if next((output for output in node.output if output), "") == holder:
            for name, graph in inner_graphs(node):
                if name == attribute:
                    return graph
    return None


def _tensor_in(scope: Scope, name: str) -> TensorProto | None:
    found: list[TensorProto] = []
    if isinstance(scope, GraphProto):
        found += [tensor for tensor in scope.initializer if tensor.name == name]
    for node in scope.node:
        if node.op_type == "Constant" and name in node.output:
            found += [tensor for attribute in node.attribute for tensor in attribute_tensors(attribute)]
    return found[0] if found else None
