"""Constants that are used again and again: a chain of uses is a recurrence, parallel uses are sharing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
import onnx_ir as ir

from lsc_graph.recurrence.dataflow import inputs_of
from lsc_graph.recurrence.unrolled.constants import Constants, is_offset

MIN_STEPS = 3
SLICES_ARE_A_CHAIN = "slices are a chain"
_LOOPING = frozenset(("RNN", "GRU", "LSTM", "Scan", "Loop", "If"))
_ROLE_RADIUS = 2


@dataclass(frozen=True)
class Chain:
    """Uses of one constant by the same operator at the same input, each computed from the one before.

    Where `is_sequence`, it is a sequence instead, of which each node uses the next slice. Where `is_part`,
    the constant is used elsewhere, too. Where `is_strided`, each is computed from the one several before.
    """

    constant: ir.Value
    nodes: tuple[ir.Node, ...]
    is_sequence: bool = False
    is_part: bool = False
    is_strided: bool = False


@dataclass(frozen=True)
class NoChain:
    """Repeated uses that are not totally ordered by the dataflow, or too few, and how they lie."""

    constant: ir.Value
    num_uses: int
    num_levels: int

    @property
    def reason(self) -> str:
        """Why this is no recurrence."""
        if self.num_levels == self.num_uses:
            return (
                f"its {self.num_uses} uses follow each other: steps of a recurrence, or layers with tied "
                f"weights, but at least {MIN_STEPS} are needed to tell: export it with more steps"
            )
        if self.num_levels == 1:
            return (
                f"its {self.num_uses} uses do not depend on each other: an input weight, or shared branches"
            )
        return (
            f"its {self.num_uses} uses are not in one chain: the longest has {self.num_levels}, so they do "
            "not number the steps of one recurrence"
        )


class Order:
    """The nodes of a graph in topological order, and who feeds whom."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.nodes = list(graph)
        self.index = {node: position for position, node in enumerate(self.nodes)}
        self.sources = {
            node: [p for v in inputs_of(node) if (p := v.producer()) is not None and p in self.index]
            for node in self.nodes
        }

    @cached_property
    def loops(self) -> dict[ir.Node, frozenset[ir.Node]]:
        """For each node, the loops and recurrent operators that it is, or is computed from."""
        found: dict[ir.Node, frozenset[ir.Node]] = {}
        none = frozenset[ir.Node]()
        for node in self.nodes:
            behind = {found[source] for source in self.sources[node]}
            own = frozenset((node,)) if node.op_type in _LOOPING else none
            found[node] = behind.pop() if len(behind) == 1 and not own else own.union(*behind)
        return found

    def levels(self, anchors: Iterable[ir.Node]) -> dict[ir.Node, int]:
        """For each node, the largest number of anchors on one path that ends in it; absent where 0."""
        chosen = set(anchors)
        found: dict[ir.Node, int] = {}
        for node in self.nodes[min(self.index[anchor] for anchor in chosen) :]:
            level = max((found.get(source, 0) for source in self.sources[node]), default=0)
            level += node in chosen
            if level:
                found[node] = level
        return found


def find_chains(order: Order, constants: Constants) -> tuple[list[Chain], list[NoChain]]:
    """Chains of uses, and the repeated uses that are none.

    Two uses in a chain are too few, unless a first step without a use is found; of a matrix, they are among
    both.
    Matrices come first, in the order of the dataflow, so that lower layers are before upper ones; then all
    others, the largest first, and such as hold one number only.
    """
    chains: list[Chain] = []
    others: list[NoChain] = []
    for constant, nodes in repeated_uses(order, constants):
        if len(nodes) < MIN_STEPS:
            if not constants.is_uniform(constant) and is_chain(own_levels(order, nodes)):
                others += [NoChain(constant, len(nodes), len(nodes))] * constants.is_matrix(constant)
                chains += [Chain(constant, part) for part in ordered_uses(order, nodes)]
            continue
        ordered = ordered_uses(order, nodes)
        chains += [Chain(constant, part, is_part=len(part) < len(nodes)) for part in ordered]
        if not ordered:
            others.append(NoChain(constant, len(nodes), max(own_levels(order, nodes))))
    chains.sort(key=lambda chain: _precedence(chain, order, constants))
    return chains, others


def ordered_uses(order: Order, nodes: Sequence[ir.Node]) -> list[tuple[ir.Node, ...]]:
    """The nodes, or those of them that belong together, wherever each is computed from the one before.

    Those belong together that play one role, or that have to do with each other: one network may be applied
    to several sequences.
    """
    levels = own_levels(order, nodes)
    if is_chain(levels):
        return [tuple(sorted(nodes, key=order.index.__getitem__))]
    parts = [part for part in _by_role(nodes) if len(part) >= MIN_STEPS] if max(levels) > 1 else []
    ordered = [part for part in parts if is_chain(own_levels(order, part))]
    if not ordered and max(levels) >= MIN_STEPS:
        parts = [part for part in connected_uses(order, nodes) if len(part) >= MIN_STEPS]
        ordered = [part for part in parts if is_chain(own_levels(order, part))]
    return [tuple(sorted(part, key=order.index.__getitem__)) for part in ordered]


def _precedence(chain: Chain, order: Order, constants: Constants) -> tuple[int, int]:
    if constants.is_matrix(chain.constant) and not constants.is_uniform(chain.constant):
        return (0, order.index[chain.nodes[0]])
    return (1, -constants.num_elements(chain.constant))


def repeated_uses(order: Order, constants: Constants) -> Iterator[tuple[ir.Value, list[ir.Node]]]:
    """Constants that are used more than once by one operator at one input, with these uses."""
    uses: defaultdict[Hashable, list[tuple[ir.Value, ir.Node]]] = defaultdict(list)
    for node in order.nodes:
        if node.op_type in _LOOPING or all(v is None or v in constants for v in node.inputs):
            continue
        for index, value in enumerate(node.inputs):
            if value is not None and constants.is_weight(value) and not is_offset(value):
                place = (node.domain, node.op_type, len(node.inputs), index)
                uses[constants.key(value), place].append((value, node))
    for found in uses.values():
        nodes = list(dict.fromkeys(node for _, node in found))
        if len(nodes) >= MIN_STEPS - 1:
            yield found[0][0], nodes


def own_levels(order: Order, nodes: Sequence[ir.Node]) -> list[int]:
    """The place of each node in the longest path over nodes that ends in it."""
    levels = order.levels(nodes)
    return [levels[node] for node in nodes]


def is_chain(levels: Sequence[int]) -> bool:
    return sorted(levels) == list(range(1, len(levels) + 1))


def _by_role(nodes: Iterable[ir.Node]) -> list[list[ir.Node]]:
    """Nodes grouped by what becomes of their outputs, a few operators far."""
    groups: defaultdict[Hashable, list[ir.Node]] = defaultdict(list)
    for node in nodes:
        groups[_role(node, _ROLE_RADIUS)].append(node)
    return list(groups.values())


def connected_uses(order: Order, nodes: Sequence[ir.Node]) -> list[list[ir.Node]]:
    """Nodes grouped by who is computed from whom."""
    latest: dict[ir.Node, frozenset[ir.Node]] = {}
    groups: nx.Graph[ir.Node] = nx.Graph()
    groups.add_nodes_from(nodes)
    for node in order.nodes[min((order.index[own] for own in nodes), default=0) :]:
        before = frozenset[ir.Node]().union(*(latest.get(source, ()) for source in order.sources[node]))
        if node in groups:
            groups.add_edges_from((node, own) for own in before)
        latest[node] = frozenset((node,)) if node in groups else before
    return [sorted(part, key=order.index.__getitem__) for part in nx.connected_components(groups)]


def _role(node: ir.Node, radius: int) -> Hashable:
    if radius == 0:
        return node.op_type
    uses = [(use.node.op_type, use.idx, _role(use.node, radius - 1)) for use in node.outputs[0].uses()]
    arithmetic = [use for use in uses if use[0] in ("Add", "Sub", "Mul", "Div")]
    return (node.op_type, tuple(sorted(map(repr, set(arithmetic)))))
