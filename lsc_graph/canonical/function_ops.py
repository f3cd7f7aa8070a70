"""Operators that ONNX defines by others, written out as their definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnx import AttributeProto, FunctionProto

MAX_ROUNDS = 8
_DOMAIN = "lsc_graph.definitions"
_DEFAULT = ("", "ai.onnx")

Choice = Callable[[ir.Node], bool]


def write_out(model: ir.Model, is_chosen: Choice, renew: Callable[[ir.Model], None]) -> tuple[str, ...]:
    """Replace the chosen nodes by their definitions, and what those consist of, in place.

    Args:
        model: with the types of the values that the chosen nodes read.
        is_chosen: which nodes; nodes that ONNX does not define by others stay.
        renew: called after every round, to infer the types of new values.

    Returns:
        The operators that were written out, each once.
    """
    found: list[str] = []
    for _ in range(MAX_ROUNDS):
        opset = model.opset_imports.get("", 0)
        chosen = [node for node in model.graph.all_nodes() if node.domain in _DEFAULT and is_chosen(node)]
        kinds = [node.op_type for node in chosen]
        written = [kind for node, kind in zip(chosen, kinds, strict=True) if _attach(model, node, opset)]
        if not written:
            break
        found += written
        passes.InlinePass()(model)
        model.functions.clear()
        model.opset_imports.pop(_DOMAIN, None)
        renew(model)
    return tuple(dict.fromkeys(found))


def _attach(model: ir.Model, node: ir.Node, opset: int) -> bool:
    """Turn a node into a call of its own definition."""
    definition = definition_of(node, opset)
    if definition is None:
        return False
    for index, value in enumerate(node.outputs):
        value.name = value.name or f"{node.outputs[0].name}.unread_{index}"
    kind, count = node.op_type, len(model.functions)
    label = node.name or node.outputs[0].name
    for inner in definition.node:
        inner.name = f"{label}/{inner.op_type}"
    definition.domain, definition.name = _DOMAIN, f"{kind}_{count}"
    function = ir.serde.deserialize_function(definition)
    model.functions[function.identifier()] = function
    model.opset_imports[_DOMAIN] = 1
    node.domain, node.op_type = _DOMAIN, definition.name
    return True


def definition_of(node: ir.Node, opset: int) -> FunctionProto | None:
    """The definition of an operator at its inputs' types, if it has one."""
    try:
        schema: Any = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return None
    proto = ir.serde.serialize_node(node)
    plain = [version for version in schema.function_opset_versions if version <= opset]
    made = [version for version in schema.context_dependent_function_opset_versions if version <= opset]
    if plain:
        data = schema.get_function_with_opset_version(max(plain))
    elif made:
        types = [_type_of(value) for value in node.inputs]
        data = schema.get_context_dependent_function_with_opset_version(
            max(made), proto.SerializeToString(), types
        )
    else:
        return None
    if not data:
        return None
    function = FunctionProto.FromString(data)
    if not _in_opset(function, opset):
        return None
    return _with_outputs(_with_attributes(function, schema, proto), len(node.outputs))


def _in_opset(function: FunctionProto, opset: int) -> bool:
    """Bring a definition to a later operator set, where its operators are the same in that; False if not."""
    written = next((entry.version for entry in function.opset_import if entry.domain in _DEFAULT), opset)
    nodes, pending = [], list(function.node)
    while pending:
        node = pending.pop()
        nodes.append(node)
        pending += [inner for attribute in node.attribute for inner in attribute.g.node]
    for kind in {node.op_type for node in nodes if node.domain in _DEFAULT}:
        before, now = (onnx.defs.get_schema(kind, version, "").since_version for version in (written, opset))
        if before != now and not _is_widened(kind, written, opset):
            return False
    for entry in function.opset_import:
        if entry.domain in _DEFAULT:
            entry.version = opset
    return True


def _is_widened(kind: str, before: int, now: int) -> bool:
    """Whether a later version of an operator takes all that the earlier one takes, by the same names."""
    old, new = (onnx.defs.get_schema(kind, version, "") for version in (before, now))
    taken, given = ([value.name for value in schema.inputs] for schema in (new, old))
    is_optional = all(not new.attributes[name].required for name in set(new.attributes) - set(old.attributes))
    return taken == given and set(old.attributes) <= set(new.attributes) and is_optional


def _type_of(value: ir.Value | None) -> bytes:
    if value is None or value.type is None:
        return b""
    return bytes(ir.serde.serialize_value(value).type.SerializeToString())


def _with_attributes(
    function: FunctionProto, schema: onnx.defs.OpSchema, node: onnx.NodeProto
) -> FunctionProto:
    """The definition with the default values of attributes that the node does not give."""
    given = {attribute.name for attribute in node.attribute}
    declared = {*function.attribute, *(attribute.name for attribute in function.attribute_proto)}
    del function.attribute[:]
    del function.attribute_proto[:]
    for name in sorted(declared | given):
        default = schema.attributes[name].default_value if name in schema.attributes else AttributeProto()
        if name not in given and default.type != AttributeProto.UNDEFINED:
            function.attribute_proto.add().CopyFrom(default)
        else:
            function.attribute.append(name)
    return function


def _with_outputs(function: FunctionProto, count: int) -> FunctionProto:
    """The definition with the outputs that are asked for; one that nobody reads may not be computed."""
    made = {name for node in function.node for name in node.output} | set(function.input)
    del function.output[count:]
    for name in function.output:
        if name not in made:
            first = next(output for output in function.output if output in made)
            function.node.append(onnx.helper.make_node("Identity", [first], [name]))
    return function
