"""Gradient paths counted exactly, and weighted path sums in the log domain (theory sections 2 and 4).

Everything here is one backward sweep over a topological order of the grid, linear in its edges; no path
is ever enumerated. Between two cells of a full rectangular grid the count is C(dt + dl, dl), the paper's
source of additive explosion (arXiv 2308.12075); on any other DAG it is what it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import networkx as nx

from lsc_graph.errors import UsageError
from lsc_graph.grid.unroll import GridNode

Log10Weight = Callable[[GridNode, GridNode, Mapping[str, Any]], float]


def num_paths_from_each(grid: nx.DiGraph[GridNode], targets: Iterable[GridNode]) -> dict[GridNode, int]:
    """The number of paths from every node to the targets, exactly; a target counts the path of length 0.

    Raises:
        UsageError: a target is not in the grid.
    """
    ends = _in_grid(grid, targets)
    counts: dict[GridNode, int] = {}
    for node in _backwards(grid):
        counts[node] = (node in ends) + sum(counts[after] for after in grid.successors(node))
    return counts


def num_gradient_paths(
    grid: nx.DiGraph[GridNode], sources: Iterable[GridNode], targets: Iterable[GridNode]
) -> int:
    """The number of paths from any of `sources` to any of `targets`; a node in both counts one, of length 0.

    Raises:
        UsageError: a source or target is not in the grid.
    """
    starts = _in_grid(grid, sources)
    counts = num_paths_from_each(grid, targets)
    return sum(counts[source] for source in starts)


def log10_of_count(count: int) -> float | None:
    """log10 of a count of any size, to the last digit of a float; None for 0."""
    return math.log10(count) if count > 0 else None


def log10_path_sums(
    grid: nx.DiGraph[GridNode], targets: Iterable[GridNode], log10_weight: Log10Weight
) -> dict[GridNode, float]:
    """log10 of the sum over all paths from each node to the targets of the product of the edges' weights.

    With radii as weights this is the paper's coherent bound; with squared gains, half of it is the
    incoherent law.

    Args:
        grid: the unrolled DAG.
        targets: where paths end.
        log10_weight: log10 of an edge's weight, from its tail, head and attributes; -inf is a weight of 0.

    Returns:
        Per node; -inf where no path with a weight other than 0 leads to a target.

    Raises:
        UsageError: a target is not in the grid.
    """
    ends = _in_grid(grid, targets)
    sums: dict[GridNode, float] = {}
    for node in _backwards(grid):
        terms = [0.0] if node in ends else []
        terms += [log10_weight(node, head, data) + sums[head] for head, data in grid.adj[node].items()]
        sums[node] = log10_sum(terms)
    return sums


def log10_sum(logs: Iterable[float]) -> float:
    """log10 of the sum of numbers given by their log10, without overflow; -inf for none, nan for a nan."""
    values = list(logs)
    if any(math.isnan(value) for value in values):
        return math.nan
    top = max(values, default=-math.inf)
    if math.isinf(top):
        return top
    return top + math.log10(math.fsum(10 ** (value - top) for value in values))


def _backwards(grid: nx.DiGraph[GridNode]) -> Iterator[GridNode]:
    """Every node after all of its successors."""
    return reversed(list(nx.topological_sort(grid)))


def _in_grid(grid: nx.DiGraph[GridNode], nodes: Iterable[GridNode]) -> set[GridNode]:
    chosen = set(nodes)
    unknown = sorted(node for node in chosen if node not in grid)
    if unknown:
        raise UsageError(
            "There is no such state in the grid",
            got=", ".join(f"{node.layer}@{node.time}" for node in unknown),
            expected="a layer's id and a time from 0 to T-1",
        )
    return chosen
