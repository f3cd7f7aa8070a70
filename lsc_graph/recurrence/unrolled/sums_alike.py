"""Sums of single steps that an exporter has nested in another way, or merged constants of, as in the others.

Where a first step starts from a constant, its product with a weight is a constant too: an exporter may have
added it to the bias, or put it in its place. Products that add what was computed are sums, too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.rewiring import remove_unread
from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.unrolled.chains import MIN_STEPS, Order, is_chain, own_levels
from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.recurrence.unrolled.sums import Kind, Sum, Term, adds, find_sums, is_plain_product
from lsc_graph.recurrence.writer import GraphWriter, Names, replace_output

_MATRIX_AXES = 2


def nest_sums_alike(graph: ir.Graph) -> None:
    """Let a first step's sum add the same terms in the same order as those of the others, in place."""
    _split_products_that_add(graph)
    order, constants = Order(graph), Constants(graph, ties_numbers=True)
    groups: defaultdict[Hashable, list[Sum]] = defaultdict(list)
    for own in find_sums(graph, constants):
        groups[own.structure].append(own)
    plans = [plan for plan in _plans(groups, order, constants) if plan.is_news]
    if plans:
        writer = GraphWriter(Names(graph).unique_prefix("sum"), None)
        for plan in plans:
            _write(graph, plan, writer)
        graph.sort()


def _split_products_that_add(graph: ir.Graph) -> None:
    """Let a Gemm that adds what is computed be a product and a sum."""
    constants = Constants(graph)
    found = [n for n in graph if n.op_type == "Gemm" and adds(n) and n.inputs[2] not in constants]
    if not found:
        return
    writer = GraphWriter(Names(graph).unique_prefix("product"), None)
    for node in found:
        before, output = len(writer.nodes), node.outputs[0]
        product = _product(node, node.inputs[:2], output, writer)
        total = writer.op("Add", [product, node.inputs[2]], str(output.name), output.shape, output.dtype)
        graph.insert_before(node, writer.nodes[before:])
        replace_output(output, total)
        graph.remove(node, safe=True)


def _product(
    like: ir.Node, factors: Sequence[ir.Value | None], output: ir.Value, writer: GraphWriter
) -> ir.Value:
    """What a Gemm or a MatMul computes of its factors."""
    name = f"{output.name}.product"
    if is_plain_product(like):
        return writer.op("MatMul", factors, name, output.shape, output.dtype)
    settings = {key: given.value for key, given in like.attributes.items() if key != "beta"}
    return writer.op(like.op_type, factors, name, output.shape, output.dtype, **settings)


@dataclass(frozen=True)
class _Plan:
    """How a sum is to be nested, and with which terms.

    Where these lack one, there stands the sum of the constants that are `added`, less those that are `taken`.
    """

    own: Sum
    pattern: Sum
    terms: Mapping[int, Term]
    added: Sequence[ir.Value]
    taken: Sequence[ir.Value]

    @property
    def is_news(self) -> bool:
        """Whether the sum is not so nested yet."""
        if self.own.nesting != self.pattern.nesting or self.added:
            return True
        return any(term != self.terms[place] for place, term in enumerate(self.own.terms))


def _plans(groups: Mapping[Hashable, Sequence[Sum]], order: Order, constants: Constants) -> Iterator[_Plan]:
    """For sums of which few are alike, how those are nested that depend on them; if only one group tells."""
    by_outline: defaultdict[Hashable, list[Sequence[Sum]]] = defaultdict(list)
    for alike in groups.values():
        if len(alike) >= MIN_STEPS - 1 and alike[0].is_telling:
            for outline in {term.outline for term in alike[0].terms} - {None}:
                by_outline[outline].append(alike)
    for few in (alike for alike in groups.values() if len(alike) < MIN_STEPS):
        outlines = dict.fromkeys(term.outline for term in few[0].terms if term.kind is not None)
        known = {id(one): one for outline in outlines for one in by_outline[outline] if one is not few}
        for own in few if known and few[0].is_telling else ():
            found = [plan for one in known.values() if (plan := _plan(own, one, order, constants))]
            if len(found) == 1:
                yield found[0]


def _plan(own: Sum, others: Sequence[Sum], order: Order, constants: Constants) -> _Plan | None:
    """None, if the others are not those of later steps, or their terms do not tell which is which."""
    mine = _as_in(own, others[-1])
    missing = _missing(mine, others[-1])
    if missing is None or not _are_tied(others, constants):
        return None
    pattern: Sum | Term = others[-1]
    for kind in missing:
        pattern = pattern.without_product(kind) if isinstance(pattern, Sum) else pattern
    added = [term.value for term in own.from_within if term.kind is None and term.value is not None]
    taken = list[ir.Value]()
    kept = [_take(value, added, taken, constants) for value in _constants(pattern)]
    known = {kind: term for kind, term in zip(mine, own.terms, strict=True) if kind is not None}
    if len(added) == len(missing) and not taken:
        lacking = [term.kind for term in _from_within(pattern) if term.kind in missing]
        known |= {kind: Term(value, None, None) for kind, value in zip(lacking, added, strict=True)}
        added = []
    elif not added and not taken:
        for kind in missing:
            pattern = pattern.without(kind) if isinstance(pattern, Sum) else pattern
    elif len(missing) != 1 or not added:
        return None
    if isinstance(pattern, Term):
        return None
    constant = (Term(value, None, None) for value in kept)
    found = [next(constant) if term.kind is None else known.get(term.kind) for term in pattern.terms]
    terms = {place: term for place, term in enumerate(found) if term is not None}
    plan = _Plan(own, pattern, terms, added, taken)
    return plan if _fits(plan) and _are_later(own, others, order) else None


def _from_within(own: Sum | Term) -> list[Term]:
    return own.from_within if isinstance(own, Sum) else [own]


def _constants(own: Sum | Term) -> list[ir.Value]:
    """The constants that a sum adds."""
    terms = own.terms if isinstance(own, Sum) else ()
    return [term.value for term in terms if term.kind is None and term.value is not None]


def _as_in(own: Sum, pattern: Sum) -> list[Kind | None]:
    """The kinds of a sum's terms; such as have more constants than in the pattern are called as there."""
    wanted = {term.kind for term in pattern.terms}
    left = [term for term in pattern.terms if term.kind not in {other.kind for other in own.terms}]
    found: list[Kind | None] = []
    for term in own.terms:
        simpler = [one for one in left if term.kind not in wanted and one.is_simpler(term)]
        found.append(simpler[0].kind if len(simpler) == 1 else term.kind)
    return found


def _missing(own: Sequence[Kind | None], pattern: Sum) -> list[Kind] | None:
    """The kinds of the terms, computed with weights, that a sum lacks, in order; None if more differs."""
    wanted, known = (Counter(kind for kind in s if kind) for s in ([t.kind for t in pattern.terms], own))
    is_told = max(wanted.values(), default=0) == 1 and not known - wanted and bool(known)
    lacking = [term for term in pattern.terms if term.kind is not None and term.kind not in known]
    if not is_told or not all(term.has_weight for term in lacking):
        return None
    return [term.kind for term in lacking if term.kind is not None]


def _take(value: ir.Value, added: list[ir.Value], taken: list[ir.Value], constants: Constants) -> ir.Value:
    """The one of the added constants that is equal to one of the other steps, or that itself."""
    equal = next((own for own in added if constants.same(own, value)), None)
    if equal is None:
        taken.append(value)
        return value
    added.remove(equal)
    return equal


def _fits(plan: _Plan) -> bool:
    """Whether products of matrices, which operators may write that add to them, are of matrices alone."""
    return all(
        (mine.product is None) == (term.product is None) or _is_matrix(plan.own.node.outputs[0])
        for place, mine in plan.terms.items()
        for term in (plan.pattern.terms[place],)
    )


def _is_matrix(value: ir.Value) -> bool:
    return len(static_shape(value) or ()) == _MATRIX_AXES


def _are_tied(others: Sequence[Sum], constants: Constants) -> bool:
    """Whether all add the same constants."""
    columns = zip(*([t.value for t in own.terms if t.kind is None] for own in others), strict=True)
    return all(
        a is not None and b is not None and constants.same(a, b) for b, *column in columns for a in column
    )


def _are_later(own: Sum, others: Sequence[Sum], order: Order) -> bool:
    """Whether a sum, and those of the others that depend on it, follow each other."""
    behind = order.levels([own.node])
    later = [one.node for one in others if one.node in behind]
    return len(later) >= MIN_STEPS - 1 and is_chain(own_levels(order, [own.node, *later]))


def _write(graph: ir.Graph, plan: _Plan, writer: GraphWriter) -> None:
    before, output = len(writer.nodes), plan.own.node.outputs[0]
    total = _written(plan.pattern, iter(range(len(plan.pattern.terms))), plan, writer)
    graph.insert_before(plan.own.node, writer.nodes[before:])
    replace_output(output, total)
    remove_unread(output)


def _written(pattern: Sum | Term, places: Iterator[int], plan: _Plan, writer: GraphWriter) -> ir.Value:
    like = plan.own.node.outputs[0]
    if isinstance(pattern, Term):
        term = plan.terms.get(next(places))
        if term is None:
            return _rest(plan, writer)
        if term.value is not None:
            return term.value
        assert term.product is not None
        return _product(term.product, term.product.inputs[:2], like, writer)
    if pattern.node.op_type == "Gemm":
        term, constant = plan.terms[next(places)], plan.terms[next(places)]
        node = term.product or (term.value.producer() if term.value is not None else None)
        assert node is not None
        settings = {key: given.value for key, given in pattern.node.attributes.items()}
        inputs = [*node.inputs[:2], constant.value]
        return writer.op("Gemm", inputs, str(like.name), like.shape, like.dtype, **settings)
    operands = [_written(operand, places, plan, writer) for operand in pattern.operands]
    return writer.op("Add", operands, str(like.name), like.shape, like.dtype)


def _rest(plan: _Plan, writer: GraphWriter) -> ir.Value:
    total = plan.added[0]
    pairs = [("Add", value) for value in plan.added[1:]] + [("Sub", value) for value in plan.taken]
    for op_type, value in pairs:
        one, two = static_shape(total), static_shape(value)
        shape = np.broadcast_shapes(one, two) if one is not None and two is not None else None
        total = writer.op(op_type, [total, value], "rest", shape, total.dtype)
    return total
