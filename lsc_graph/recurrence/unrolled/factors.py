"""Factors of 1 that an exporter has left out at some steps, written again: these are like the others then."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.unrolled.chains import MIN_STEPS, Order, is_chain, own_levels
from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.recurrence.writer import GraphWriter, Names

_MOST_OPERATORS = 12
_JOINS = frozenset(("Add", "Sub"))
Kind = tuple[str | None, ...]


@dataclass(frozen=True)
class _Scaled:
    """A product of a value and a small constant, which stands at one position of it."""

    value: ir.Value
    factor: ir.Value
    position: int


def write_factors_of_one(graph: ir.Graph) -> None:
    """Let sums at every step read products with constants, where such of the other steps do.

    A gate that a clock opens and shuts is 1 at some steps: the product is simplified away there.
    """
    order, constants = Order(graph), Constants(graph)
    writer: GraphWriter | None = None
    for sums in _sums_by_step(order, constants):
        for position in range(2):
            found = [_scaled(node.inputs[position], constants) for node in sums]
            known = [own for own in found if own is not None]
            if not known or len(known) == len(sums) or not _are_like(known, constants):
                continue
            writer = GraphWriter(Names(graph).unique_prefix("factor"), None)
            for node, own in zip(sums, found, strict=True):
                if own is None:
                    _scale_by_one(graph, node, position, known[0], constants, writer)
    if writer is not None:
        graph.sort()


def _sums_by_step(order: Order, constants: Constants) -> Iterator[list[ir.Node]]:
    """Sums over the same weights that are each computed from the one before, and are of one kind."""
    groups: defaultdict[tuple[str, frozenset[object]], dict[ir.Node, Kind]] = defaultdict(dict)
    for node in order.nodes:
        if node.op_type in _JOINS and node.domain in ("", "ai.onnx"):
            groups[node.op_type, _nearest_weights(node, constants)][node] = _kind(node, constants)
    for (_, weights), kinds in groups.items():
        for kind in {kind: None for kind in kinds.values() if None not in kind} if weights else ():
            alike = [node for node, own in kinds.items() if _fits(own, kind)]
            if len({kinds[node] for node in alike} - {kind}) > 1:  # two sums of one first step
                alike = [node for node in alike if kinds[node] == kind]
            # Few have operands that are given: the first steps. Where most have, they are of several kinds.
            is_of_one_kind = 2 * sum(kinds[node] == kind for node in alike) > len(alike)
            if is_of_one_kind and len(alike) >= MIN_STEPS and is_chain(own_levels(order, alike)):
                yield alike


def _kind(node: ir.Node, constants: Constants) -> Kind:
    """By which operators the operands are computed, factors aside; None where they are given."""
    values = [_unscaled(value, constants) for value in node.inputs]
    makers = [value.producer() if value is not None and value not in constants else None for value in values]
    return tuple(maker.op_type if maker is not None else None for maker in makers)


def _fits(own: Kind, kind: Kind) -> bool:
    return any(own) and all(a in (None, b) for a, b in zip(own, kind, strict=True))


def _nearest_weights(node: ir.Node, constants: Constants) -> frozenset[object]:
    """The first matrices on the way back from a node, by content; factors are no part of the way."""
    seen, level = {node}, [node]
    for _ in range(_MOST_OPERATORS):
        values = [_unscaled(value, constants) for own in level for value in own.inputs if value is not None]
        found = {constants.key(v) for v in values if v is not None and constants.is_matrix(v)}
        if found:
            return frozenset(found)
        makers = {v.producer(): None for v in values if v is not None and v not in constants}
        level = [maker for maker in makers if maker is not None and maker not in seen]
        seen.update(level)
    return frozenset()


def _scaled(value: ir.Value | None, constants: Constants) -> _Scaled | None:
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Mul" or node.domain not in ("", "ai.onnx"):
        return None
    for position, (factor, other) in enumerate((tuple(node.inputs), tuple(node.inputs)[::-1])):
        is_small = factor is not None and constants.is_weight(factor) and not constants.is_matrix(factor)
        if is_small and factor is not None and other is not None and other not in constants:
            return _Scaled(other, factor, position)
    return None


def _unscaled(value: ir.Value | None, constants: Constants) -> ir.Value | None:
    own = _scaled(value, constants)
    return own.value if own is not None else value


def _are_like(known: Sequence[_Scaled], constants: Constants) -> bool:
    """Whether the factors are of one shape, stand at one position, and are no parameter."""
    first = known[0].factor
    is_parameter = all(constants.same(own.factor, first) for own in known) and not constants.is_uniform(first)
    kinds = Counter((own.position, static_shape(own.factor), own.factor.dtype) for own in known)
    return len(kinds) == 1 and static_shape(first) is not None and not is_parameter


def _scale_by_one(
    graph: ir.Graph,
    node: ir.Node,
    position: int,
    like: _Scaled,
    constants: Constants,
    writer: GraphWriter,
) -> None:
    value = node.inputs[position]
    shape, factor = static_shape(like.factor), like.factor.dtype
    if value is None or value in constants or value.dtype != factor or shape is None or factor is None:
        return
    if static_shape(value) != np.broadcast_shapes(static_shape(value) or (), shape):
        return
    before = len(writer.nodes)
    one = writer.constant(np.ones(shape, dtype=factor.numpy()), "one")
    operands = [one, value] if like.position == 0 else [value, one]
    product = writer.op("Mul", operands, "product", static_shape(value), factor)
    graph.insert_before(node, writer.nodes[before:])
    node.replace_input_with(position, product)
