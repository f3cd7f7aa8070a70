"""Sums as an exporter nested them: what is added, in which order, and by which operators."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from lsc_graph.recurrence.unrolled.constants import Constants, attributes_of

_MOVING = frozenset(("Squeeze", "Unsqueeze", "Reshape", "Transpose", "Identity"))
_PICKING = frozenset(("Slice", "Gather", "Split"))
_MOST_MOVES = 6

Kind = tuple[Hashable, ...]


@dataclass(frozen=True)
class Operator:
    """What an operator does to what it computes from, with these constants at these inputs.

    At the others are `sources`, by how they are computed from weights, as far as is known. It `tells`, unless
    all of these constants are zeros, as what steps of any layer start from.
    """

    op_type: str
    attributes: Hashable
    weights: tuple[tuple[int, Hashable], ...]
    sources: frozenset[tuple[int, Kind]] = field(default=frozenset(), compare=False)
    tells: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Term:
    """What a sum adds: a value, or the product of a Gemm that adds a constant itself.

    Terms of one `kind` are computed by the same operator with the same constants; constants have none.
    """

    value: ir.Value | None
    product: ir.Node | None
    kind: Kind | None

    @property
    def has_weight(self) -> bool:
        """Whether it is computed with a constant."""
        return _has_weight(self.kind)

    @property
    def tells(self) -> bool:
        """Whether it is computed with a constant that tells it from others."""
        last = self.kind[-1] if self.kind else None
        return isinstance(last, Operator) and last.tells

    @property
    def outline(self) -> Kind | None:
        """The kind without the constants."""
        last = self.kind[-1] if self.kind else None
        if not isinstance(last, Operator) or self.kind is None:
            return self.kind
        return (*self.kind[:-1], last.op_type, last.attributes)

    def is_simpler(self, other: Term) -> bool:
        """Whether another term is computed by the same operator with these constants and more.

        That stands in the place of this one in a step where what else enters it is constant: what does not is
        computed by the same weights.
        """
        if not self.kind or not other.kind or self.outline != other.outline:
            return False
        one, two = self.kind[-1], other.kind[-1]
        if not isinstance(one, Operator) or not isinstance(two, Operator):
            return False
        is_same = bool(two.sources) and two.sources <= one.sources
        return is_same and set(one.weights) < set(two.weights)

    @property
    def is_read(self) -> bool:
        """Whether it is a value from elsewhere, or a part of one."""
        return _is_read(self.kind)


@dataclass(frozen=True)
class Sum:
    """An Add of two operands, or a Gemm: its product, and the constant that it adds."""

    node: ir.Node
    operands: tuple[Sum | Term, Sum | Term]
    terms: tuple[Term, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "terms", tuple(_terms(self)))

    @property
    def structure(self) -> Hashable:
        """Equal for sums of terms of the same kinds that are nested alike, whatever constants they add."""
        return (self.node.op_type, *(_structure(own) for own in self.operands))

    @property
    def nesting(self) -> Hashable:
        """Equal for sums that are nested alike, whatever they add."""
        parts = (own.nesting if isinstance(own, Sum) else None for own in self.operands)
        return (self.node.op_type, *parts)

    @property
    def is_telling(self) -> bool:
        """Whether a term tells what is added: by a weight, or by where it is read."""
        return any(term.tells or term.is_read for term in self.terms)

    @property
    def from_within(self) -> list[Term]:
        """The terms in the order in which they are added, whichever operand they are."""
        pairs = sorted(enumerate(_depths(self)), key=lambda pair: (-pair[1], pair[0]))
        return [self.terms[place] for place, _ in pairs]

    def without_product(self, kind: Kind) -> Sum:
        """The same where a Gemm is one term, product and constant, if it computes terms of this kind."""
        return Sum(self.node, (_whole(self.operands[0], kind), _whole(self.operands[1], kind)))

    def without(self, kind: Kind) -> Sum | Term:
        """What is left without the term of a kind, that of a Gemm excepted."""
        first, second = self.operands
        for own, other in ((first, second), (second, first)):
            if isinstance(own, Term) and own.kind == kind:
                return other
        return Sum(self.node, (_without(first, kind), _without(second, kind)))


def _without(own: Sum | Term, kind: Kind) -> Sum | Term:
    return own.without(kind) if isinstance(own, Sum) else own


def _terms(own: Sum | Term) -> Iterator[Term]:
    if isinstance(own, Term):
        yield own
    else:
        for operand in own.operands:
            yield from _terms(operand)


def _depths(own: Sum | Term, depth: int = 0) -> Iterator[int]:
    if isinstance(own, Term):
        yield depth
    else:
        for operand in own.operands:
            yield from _depths(operand, depth + 1)


def _structure(own: Sum | Term) -> Hashable:
    return own.structure if isinstance(own, Sum) else own.kind


def _whole(own: Sum | Term, kind: Kind) -> Sum | Term:
    if isinstance(own, Term):
        return own
    is_it = own.node.op_type == "Gemm" and own.terms[0].kind == kind
    return Term(own.node.outputs[0], None, kind) if is_it else own.without_product(kind)


def find_sums(graph: ir.Graph, constants: Constants) -> list[Sum]:
    """The outermost sums of a graph, in order, that are not computed from constants alone."""
    nodes = [node for node in graph if is_sum(node, constants) and node.outputs[0] not in constants]
    return [_sum(node, constants) for node in nodes if _reader(node, constants) is None]


def is_sum(node: ir.Node | None, constants: Constants) -> bool:
    """Whether a node adds two values as they are: an Add, or a Gemm with a constant."""
    if node is None or node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "Gemm":
        return adds(node) and node.inputs[2] in constants
    return node.op_type == "Add" and None not in node.inputs


def adds(node: ir.Node) -> bool:
    """Whether a Gemm adds something, as it is, to its product."""
    return len(node.inputs) == 3 and node.inputs[2] is not None and _number(node, "beta", 1.0) == 1


def _reader(node: ir.Node, constants: Constants) -> ir.Node | None:
    """The Add that a sum is part of: the only one who reads it."""
    uses = tuple(node.outputs[0].uses())
    if len(uses) != 1 or node.outputs[0].is_graph_output():
        return None
    reader = uses[0].node
    is_its = reader.op_type == "Add" and reader.graph is node.graph and is_sum(reader, constants)
    return reader if is_its else None


def _sum(node: ir.Node, constants: Constants) -> Sum:
    if node.op_type == "Gemm":
        kind = (0, _operator(node, constants, num_inputs=2))
        return Sum(node, (Term(None, node, kind), Term(node.inputs[2], None, None)))
    return Sum(node, (_operand(node, 0, constants), _operand(node, 1, constants)))


def _operand(node: ir.Node, position: int, constants: Constants) -> Sum | Term:
    value = node.inputs[position]
    assert value is not None
    producer = value.producer()
    if value in constants:
        return Term(value, None, None)
    if producer is not None and is_sum(producer, constants) and _reader(producer, constants) is node:
        return _sum(producer, constants)
    return Term(value, None, _kind(value, constants))


def _kind(value: ir.Value, constants: Constants, *, is_deep: bool = True) -> Kind:
    """How a value is computed, as far as the operator behind what only moves elements."""
    moves: list[Hashable] = []
    node = value.producer()
    while node is not None and node.op_type in _MOVING and node.inputs[0] and len(moves) < _MOST_MOVES:
        moves.append((node.op_type, attributes_of(node)))
        value = node.inputs[0]
        node = value.producer()
    if node is None:
        return (*moves, value)
    if node.op_type in _PICKING:
        return (*moves, node.op_type, node.inputs[0])
    operator = _operator(node, constants, num_inputs=len(node.inputs), is_deep=is_deep)
    return (*moves, value.index(), operator)


def _operator(node: ir.Node, constants: Constants, *, num_inputs: int, is_deep: bool = False) -> Operator:
    read = [(i, value) for i, value in enumerate(node.inputs[:num_inputs]) if value is not None]
    weights = tuple((i, constants.key(value)) for i, value in read if value in constants)
    is_product = is_plain_product(node) and num_inputs == 2
    op_type, attributes = ("MatMul", ()) if is_product else (node.op_type, attributes_of(node))
    sources = frozenset[tuple[int, Kind]]()
    if is_deep:
        computed = [(i, value) for i, value in read if value not in constants]
        sources = frozenset((i, _kind(value, constants, is_deep=False)) for i, value in computed)
        sources = frozenset(own for own in sources if _has_weight(own[1]) or _is_read(own[1]))
    tells = any(not constants.is_zero(value) for _, value in read if value in constants)
    return Operator(op_type, attributes, weights, sources, tells)


def _has_weight(kind: Kind | None) -> bool:
    last = kind[-1] if kind else None
    return isinstance(last, Operator) and bool(last.weights)


def _is_read(kind: Kind | None) -> bool:
    return kind is not None and isinstance(kind[-1], ir.Value)


def is_plain_product(node: ir.Node) -> bool:
    """Whether a node multiplies two matrices as they are (and may add something to that)."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in ("MatMul", "Gemm"):
        return False
    is_turned = any(_number(node, name, 0) for name in ("transA", "transB"))
    return not is_turned and _number(node, "alpha", 1.0) == 1


def _number(node: ir.Node, name: str, default: float) -> float:
    given = node.attributes.get(name)
    return float(given.value) if given is not None else default
