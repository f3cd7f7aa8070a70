"""First steps that several recurrences of the same weights have in common, written out for each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from lsc_graph.recurrence.unrolled.chains import (
    MIN_STEPS,
    Order,
    connected_uses,
    is_chain,
    own_levels,
    repeated_uses,
)
from lsc_graph.recurrence.unrolled.constants import Constants
from lsc_graph.recurrence.writer import GraphWriter, Names


@dataclass(frozen=True)
class _Shared:
    """What several chains begin with, in order, and for each node the chains that it leads to."""

    nodes: tuple[ir.Node, ...]
    num_chains: int
    ahead: dict[ir.Node, frozenset[int]]


def write_starts_apart(graph: ir.Graph) -> None:
    """Give every chain of uses a first use of its own.

    A cell that runs from one state forward and from the same state in reverse multiplies it by its weights
    once for both, where what is computed twice is computed once. The first step would be missing from one.
    """
    while (shared := _find_shared(graph)) is not None:
        for chain in range(1, shared.num_chains):
            _copy(graph, shared, chain)


def _copy(graph: ir.Graph, shared: _Shared, chain: int) -> None:
    """Repeat what is shared for one chain, which reads the copy from here on."""
    writer = GraphWriter(Names(graph).unique_prefix("apart"), None)
    made: dict[ir.Value, ir.Value] = {}
    writer.repeat(shared.nodes, made)
    for original, copy in zip(shared.nodes, writer.nodes, strict=True):
        graph.insert_after(original, copy)
    for old, new in made.items():
        for use in tuple(old.uses()):
            if use.node not in shared.nodes and shared.ahead.get(use.node) == frozenset((chain,)):
                use.node.replace_input_with(use.idx, new)


def _find_shared(graph: ir.Graph) -> _Shared | None:
    order, constants = Order(graph), Constants(graph)
    for constant, uses in repeated_uses(order, constants):
        if constants.is_uniform(constant):  # as 1 in 1 - z, which the layers of a stack may share
            continue
        levels = own_levels(order, uses)
        count = Counter(levels)
        if any(count[level + 1] > count[level] for level in count):  # else no use is followed by two
            for first in (use for use, level in zip(uses, levels, strict=True) if level == 1):
                if (found := _shared_from(first, uses, order)) is not None:
                    return found
    return None


def _shared_from(first: ir.Node, uses: Sequence[ir.Node], order: Order) -> _Shared | None:
    """What several chains begin with that go on from one use, side by side; None if they do not.

    They have more of their own than in common: else one may rather begin where the other one stands.
    """
    behind = order.levels([first])
    last, num_shared = first, 1
    chains = connected_uses(order, [use for use in uses if use in behind and use is not first])
    while len(chains) == 1 and num_shared < len(chains[0]) // 2:
        if (next_ := _only_first(chains[0], order)) is None:
            return None
        last, num_shared = next_, num_shared + 1
        chains = connected_uses(order, [use for use in chains[0] if use is not last])
    fewest = max(MIN_STEPS - 1, num_shared)
    if len(chains) < 2 or any(
        len(chain) < fewest or not is_chain(own_levels(order, chain)) for chain in chains
    ):
        return None
    ahead = _leads_to(chains, order)
    nodes = tuple(node for node in order.nodes if node in behind and len(ahead.get(node, ())) > 1)
    return _Shared(nodes, len(chains), ahead)


def _only_first(uses: Sequence[ir.Node], order: Order) -> ir.Node | None:
    """The use that all others are computed from, one way or another."""
    behind = order.levels([uses[0]])
    return uses[0] if all(use in behind for use in uses) else None


def _leads_to(chains: Sequence[Sequence[ir.Node]], order: Order) -> dict[ir.Node, frozenset[int]]:
    """The chains of which some use is computed from a node, or is it; absent where there are none."""
    found = {node: frozenset((number,)) for number, chain in enumerate(chains) for node in chain}
    for node in reversed(order.nodes):
        if node in found:
            for source in order.sources[node]:
                found[source] = found.get(source, frozenset()) | found[node]
    return found
