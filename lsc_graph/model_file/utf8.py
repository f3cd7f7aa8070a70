"""Names that are not UTF-8: protobuf hands them over as bytes, where everybody expects text."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto

from lsc_graph.errors import LoadError
from lsc_graph.model_file.proto_walk import Scope, model_scopes, tensors_of


def check_names(proto: ModelProto, where: str | None) -> None:
    """Raise LoadError if a name in the model is not UTF-8."""
    for text in _texts(proto):
        if not isinstance(text, str):
            raise LoadError(
                "The model file is damaged: a name in it is not UTF-8",
                where=where,
                got=repr(text)[:80],
                do="copy or download the file again",
            )


def _texts(proto: ModelProto) -> Iterator[object]:
    yield from (proto.producer_name, proto.producer_version, proto.domain)
    for entry in proto.opset_import:
        yield entry.domain
    for function in proto.functions:
        yield from (function.domain, function.overload, *function.input, *function.output)
        yield from function.attribute
    for scope in model_scopes(proto):
        yield from _texts_of_scope(scope)


def _texts_of_scope(scope: Scope) -> Iterator[object]:
    yield scope.name
    values = list(scope.value_info)
    if isinstance(scope, GraphProto):
        values += [*scope.input, *scope.output]
    for value in values:
        yield from _texts_of_value(value)
    for node in scope.node:
        yield from (node.name, node.op_type, node.domain, node.overload, *node.input, *node.output)
        yield from _texts_of_attributes(node)
    for tensor in tensors_of(scope):
        yield tensor.name


def _texts_of_value(value: ValueInfoProto) -> Iterator[object]:
    yield value.name
    for dim in value.type.tensor_type.shape.dim:
        yield dim.dim_param


def _texts_of_attributes(node: NodeProto) -> Iterator[object]:
    """Names of attributes, and their strings, which only custom operators may fill with other bytes."""
    for attribute in node.attribute:
        yield from (attribute.name, attribute.ref_attr_name)
        if node.domain in ("", "ai.onnx"):
            if attribute.type == AttributeProto.STRING:
                yield _text(attribute.s)
            yield from map(_text, attribute.strings)


def _text(data: bytes) -> object:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
