"""Quantised models as models of floats: what the audit of a quantised model differentiates."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import FunctionProto, NodeProto, numpy_helper

from lsc_graph.model_file.proto_walk import Scope, inner_graphs, model_scopes, scopes
from lsc_graph.model_file.provenance import UNROUNDED
from lsc_graph.quantized.operators import HANDED_ON_RULES, QUANTIZED
from lsc_graph.quantized.unrounded import Unrounded
from lsc_graph.running.reference import Array

_STANDARD = ("", "ai.onnx")


def is_quantized(proto: onnx.ModelProto) -> bool:
    """Whether a model computes with integers in place of floats anywhere."""
    return any(
        "quantize" in node.op_type.lower()
        or node.op_type.endswith("Integer")
        or node.op_type.startswith("QLinear")
        for scope in model_scopes(proto)
        for node in scope.node
    )


def dequantized(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A copy that computes with floats, and the names of the operators that were replaced.

    Weights become the floats that they stand for. Activations are no longer rounded, but still saturate where
    the integers do: exporters leave a Relu to the lower end of that range. Operators of quantised values
    become their counterparts of floats; those without one keep their integers, rounded before them.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    replaced: list[str] = []
    for root, imports in ((copy.graph, copy.opset_import), *((f, f.opset_import) for f in copy.functions)):
        opset = next((own.version for own in imports if own.domain in _STANDARD), 0)
        replaced += _rewrite_all(root, opset)
    if replaced:
        copy.metadata_props.add(key=UNROUNDED, value="1")
    return copy, tuple(dict.fromkeys(replaced))


def _rewrite_all(root: Scope, opset: int) -> list[str]:
    """A graph or function with the graphs inside it: outer ones first, as inner ones read their values."""
    every = [scope for scope, _ in scopes(root)]
    nodes = [node for scope in every for node in scope.node]
    to = Unrounded(
        _constants(every),
        {name: node for node in nodes for name in node.output if name},
        _readers(nodes),
        frozenset(_results(every)),
        opset,
    )
    pending = [root]
    while pending:
        scope = pending.pop()
        _rewrite(scope, to)
        # Rewriting makes copies of nodes: the graphs inside them are those of the copies.
        pending += [inner for node in scope.node for _, inner in inner_graphs(node)]
    return to.replaced


def _rewrite(scope: Scope, to: Unrounded) -> None:
    to.enter()
    for node in scope.node:
        _rewrite_node(node, to)
    for value in scope.output if not isinstance(scope, FunctionProto) else ():
        _keep_type(value.name, to)
    nodes = list(to.nodes)
    del scope.node[:]
    scope.node.extend(nodes)
    kept = [value for value in scope.value_info if value.name not in to.floats]
    del scope.value_info[:]
    scope.value_info.extend(kept)


def _rewrite_node(node: NodeProto, to: Unrounded) -> None:
    domain = "" if node.domain in _STANDARD else node.domain
    start = len(to.nodes)
    rule = QUANTIZED.get((domain, node.op_type))
    if rule is not None and rule(to, node):
        to.note(node)
        return
    to.undo(start)
    if rule is None and domain == "" and (handed := HANDED_ON_RULES.get(node.op_type)) and handed(to, node):
        return
    to.nodes.append(to.rounded(node))


def _keep_type(name: str, to: Unrounded) -> None:
    """A result of a graph has the type that it was declared with."""
    if name not in to.floats:
        return
    inner = f"{name}.unrounded"
    for node in to.nodes:
        for names in (node.input, node.output):
            for index, own in enumerate(names):
                if own == name:
                    names[index] = inner
    elem_type = to.floats.pop(name)
    to.emit("Cast", [to.emit("Round", [inner])], name, to=elem_type)


def _constants(every: Iterable[Scope]) -> dict[str, Array]:
    constants = {}
    for scope in every:
        for tensor in getattr(scope, "initializer", ()):
            constants[tensor.name] = numpy_helper.to_array(tensor)
        for node in scope.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return constants


def _readers(nodes: Iterable[NodeProto]) -> dict[str, list[NodeProto]]:
    readers: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def _results(every: Iterable[Scope]) -> Iterable[str]:
    """Names of graphs' outputs."""
    for scope in every:
        yield from (value if isinstance(value, str) else value.name for value in scope.output)
