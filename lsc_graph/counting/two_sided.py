"""Paths of stacks that run both ways in time, at any length: their number is a polynomial in T.

A path through layers l1, l2, ... is a choice of the times at which it changes layer, and every layer only
asks that one time be no later (forward), no earlier (reverse) than the next, or equal. The number of such
choices among T times is an order polynomial (R. Stanley, Enumerative Combinatorics 1, section 3.12), here
with both ends of the path at the first or last time or anywhere. Counted at a few small T, it is known at
every T.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from lsc_graph.counting.columns import Exact, sums_to
from lsc_graph.counting.hops import Hop, flow_of, groups_of

End = int | None
"""A time that moves with T: 0 the first, -1 the last, None every one."""


def is_polynomial(hops: Sequence[Hop]) -> bool:
    """Whether the argument above holds: equal times between layers, single steps within, no feedback."""
    groups = groups_of((), hops)
    inner = [hop for hop in hops if hop.source == hop.target]
    return (
        all(hop.pairs is None for hop in hops)
        and all(abs(hop.lag) == 1 if hop.source == hop.target else hop.lag == 0 for hop in hops)
        and all(len(group) == 1 for group in groups)
        and len(inner) == len({hop.source for hop in inner})
    )


def num_paths(
    layers: Sequence[str],
    hops: Sequence[Hop],
    num_steps: int,
    sources: Mapping[str, End],
    targets: Mapping[str, End],
) -> int:
    """The number of paths, exactly, for hops that satisfy `is_polynomial`.

    Args:
        layers: ids of all layers.
        hops: all edges.
        num_steps: T.
        sources, targets: the time at which paths start and end, by layer.
    """
    # From T = 2 on, where the first and the last time differ: sum_k e_k C(T - 2, k).
    degree = _longest_way(layers, hops) + 1
    if num_steps <= degree + 3:
        return _counted(layers, hops, num_steps, sources, targets)
    values = [_counted(layers, hops, 2 + k, sources, targets) for k in range(degree + 1)]
    total, binomial = 0, 1
    for k in range(degree + 1):
        total += values[0] * binomial
        values = [after - before for before, after in itertools.pairwise(values)]
        binomial = binomial * (num_steps - 2 - k) // (k + 1)
    return total


def _longest_way(layers: Sequence[str], hops: Sequence[Hop]) -> int:
    """The number of layers on the longest way."""
    above = flow_of(hop for hop in hops if hop.source != hop.target)
    above.add_nodes_from(layers)
    longest: dict[str, int] = {}
    for (layer,) in reversed(groups_of(layers, hops)):
        longest[layer] = 1 + max((longest[head] for head in above.successors(layer)), default=0)
    return max(longest.values(), default=0)


def _counted(
    layers: Sequence[str],
    hops: Sequence[Hop],
    num_steps: int,
    sources: Mapping[str, End],
    targets: Mapping[str, End],
) -> int:
    ends = {layer: _times(end, num_steps) for layer, end in targets.items()}
    columns = sums_to(Exact(), layers, hops, num_steps, ends)
    return sum(columns[layer][t] for layer, end in sources.items() for t in _times(end, num_steps))


def _times(end: End, num_steps: int) -> range:
    if end is None:
        return range(num_steps)
    return range(1) if end == 0 else range(num_steps - 1, num_steps)
