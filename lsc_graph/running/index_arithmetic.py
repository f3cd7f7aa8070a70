"""Which integers a model may be fed where it computes indices of a table from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

Array = np.ndarray[Any, np.dtype[Any]]

MAX_CHOICES = 1 << 20
_OPSET = 21
LAYOUT_OPS = frozenset(
    [
        "Cast",
        "Identity",
        "Reshape",
        "Unsqueeze",
        "Squeeze",
        "Flatten",
        "Expand",
        "Transpose",
        "Slice",
        "Tile",
        "Concat",
        "Split",
        "Gather",
    ]
)
_PLACES = {
    "ConstantOfShape": (0,),
    **dict.fromkeys(("Expand", "Pad", "Reshape", "ReverseSequence", "Tile", "TopK"), (1,)),
    **dict.fromkeys(("Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND"), (1,)),
    **dict.fromkeys(("EmbedLayerNormalization", "OneHot"), (0, 1)),
    "Range": (0, 1, 2),
    "Slice": (1, 2, 3, 4),
}
"""Inputs of operators that say where something stands, or how much of it there is."""
_ORDERINGS = ("Less", "LessOrEqual", "Greater", "GreaterOrEqual")
_ELEMENTWISE_OPS = frozenset(
    [
        "Abs",
        "Add",
        "And",
        "Clip",
        "Div",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Max",
        "Min",
        "Mod",
        "Mul",
        "Neg",
        "Not",
        "Or",
        "Sub",
        "Where",
    ]
)


def readers(value: ir.Value, *, with_arithmetic: bool = False) -> Iterator[tuple[ir.Node, int]]:
    """Nodes that read a value, also through operators that move its elements, or compute with each."""
    pending, seen = [value], {value}
    while pending:
        for use in pending.pop(0).uses():
            yield use.node, use.idx
            passes_on = _moves(use.node) and (use.idx == 0 or use.node.op_type == "Concat")
            passes_on = passes_on or (with_arithmetic and use.node.op_type in _ELEMENTWISE_OPS)
            sorts = use.node.op_type == "TopK" and use.idx == 0
            outputs = use.node.outputs[:1] if sorts else use.node.outputs
            fresh = [out for out in outputs if out not in seen] if passes_on or sorts else []
            seen.update(fresh)
            pending += fresh


def says_where(value: ir.Value) -> bool:
    """Whether indices or shapes are computed from a value: most numbers are none."""
    return any(index in _PLACES.get(node.op_type, ()) for node, index in readers(value, with_arithmetic=True))


def only_picks_rows(value: ir.Value) -> bool:
    """Whether a value does nothing but pick rows of a table of the file, as tokens do."""
    ends = [node for node, index in readers(value) if index > 0 or not _moves(node)]
    tables = [constant(node.inputs[0]) for node in ends if node.op_type == "Gather"]
    is_table = [own is not None and own.ndim > 1 and np.issubdtype(own.dtype, np.floating) for own in tables]
    return bool(ends) and len(tables) == len(ends) and all(is_table)


def is_held_against_steps(node: ir.Node, index: int) -> bool:
    """Whether a node compares one of its inputs with the numbers 0, 1, ... as masks of lengths do."""
    if node.op_type not in _ORDERINGS:
        return False
    other = node.inputs[1 - index]
    known = constant(other)
    if known is not None:
        return known.size > 1 and np.array_equal(np.diff(known.ravel()), np.ones(known.size - 1))
    while other is not None and (producer := other.producer()) is not None and _moves(producer):
        other = producer.inputs[0]
    producer = other.producer() if other is not None else None
    return producer is not None and producer.op_type == "Range"


def constant(value: ir.Value | None) -> Array | None:
    """What a value holds, if that is known but for its shape."""
    seen = value
    while seen is not None and seen.const_value is None:
        producer = seen.producer()
        if producer is None or not _moves(producer):
            return None
        seen = producer.inputs[0]
    return None if seen is None or seen.const_value is None else np.asarray(seen.const_value.numpy())


def choices_for(source: ir.Value, index: ir.Value, size: int) -> Array | None:
    """The integers from 0 on that `index`, computed from `source`, is a valid index of a table for.

    None if what lies between is not known element by element.
    """
    candidates = np.arange(min(size, MAX_CHOICES))
    found = _computed(source, index, candidates)
    if found is None or found.shape != candidates.shape:
        return None
    return candidates[(found >= -size) & (found < size)]


def _computed(source: ir.Value, wanted: ir.Value, candidates: Array) -> Array | None:
    """What a value is for each candidate in place of an input."""
    nodes, constants = _between(source, wanted)
    if nodes is None:
        return None
    helper = onnx.helper
    dtype = source.dtype or ir.DataType.INT64
    graph = helper.make_graph(
        [*nodes, helper.make_node("Identity", [str(wanted.name)], ["indices"])],
        "indices",
        [helper.make_tensor_value_info(str(source.name), int(dtype), candidates.shape)],
        [onnx.ValueInfoProto(name="indices")],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    try:
        (found,) = ReferenceEvaluator(model).run(None, {str(source.name): candidates.astype(dtype.numpy())})
    except Exception:  # whatever a reference implementation trips over: then the values are not known.
        return None
    return np.asarray(found)


def _between(source: ir.Value, wanted: ir.Value) -> tuple[list[onnx.NodeProto] | None, dict[str, Array]]:
    """The nodes that lead from one value to another, element by element, and the numbers that they read."""
    nodes: dict[ir.Node, onnx.NodeProto] = {}
    constants: dict[str, Array] = {}
    pending = [wanted]
    while pending:
        value = pending.pop()
        node, known = value.producer(), constant(value)
        if value is source:
            continue
        if known is not None and known.size == 1:
            constants[str(value.name)] = known.reshape(())
        elif node is None or node.domain or not (_moves(node) or node.op_type in _ELEMENTWISE_OPS):
            return None, {}
        elif node not in nodes:
            moves = _moves(node) and node.op_type != "Cast"
            read = [v for v in node.inputs[: 1 if moves else None] if v is not None]
            nodes[node] = _single(node, "Identity") if moves else ir.serde.serialize_node(node)
            pending += read
    order = {node: number for number, node in enumerate(source.graph or ())}
    return [nodes[node] for node in sorted(nodes, key=lambda node: order.get(node, 0))], constants


def _single(node: ir.Node, op_type: str) -> onnx.NodeProto:
    source = node.inputs[0]
    assert source is not None
    return onnx.helper.make_node(op_type, [str(source.name)], [str(node.outputs[0].name)])


def _moves(node: ir.Node) -> bool:
    return node.op_type in LAYOUT_OPS
