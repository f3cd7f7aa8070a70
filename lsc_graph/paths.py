"""Gradient paths counted exactly, and weighted path sums in the log domain (theory sections 2 and 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import networkx as nx

from lsc_graph.unroll import GridNode

Log10Weight = Callable[[GridNode, GridNode, Mapping[str, Any]], float]


def num_paths_from_each(grid: nx.DiGraph[GridNode], targets: Iterable[GridNode]) -> dict[GridNode, int]:
    """The number of paths from every node to the targets; a target counts the path of length 0.

    By dynamic programming over a topological order, with exact integers: one addition for each edge.
    """
    ends = set(targets)
    counts: dict[GridNode, int] = {}
    for node in reversed(list(nx.topological_sort(grid))):
        counts[node] = (node in ends) + sum(counts[after] for after in grid.successors(node))
    return counts


def num_gradient_paths(
    grid: nx.DiGraph[GridNode], sources: Iterable[GridNode], targets: Iterable[GridNode]
) -> int:
    """The number of paths from any of `sources` to any of `targets`, exactly."""
    counts = num_paths_from_each(grid, targets)
    return sum(counts[source] for source in set(sources))


def log10_of_count(count: int) -> float | None:
    """log10 of a count of any size; None for 0."""
    return math.log10(count) if count > 0 else None


def log10_path_sums(
    grid: nx.DiGraph[GridNode], targets: Iterable[GridNode], log10_weight: Log10Weight
) -> dict[GridNode, float]:
    """log10 of the sum over all paths to the targets of the product of their edges' weights, from every node.

    Args:
        grid: the unrolled DAG.
        targets: where paths end.
        log10_weight: log10 of an edge's weight, from its tail, head and attributes; -inf is a weight of 0.

    Returns:
        Per node; -inf where no path with a weight other than 0 leads to a target.
    """
    ends = set(targets)
    sums: dict[GridNode, float] = {}
    for node in reversed(list(nx.topological_sort(grid))):
        terms = [
            log10_weight(node, head, data) + sums[head] for _, head, data in grid.out_edges(node, data=True)
        ]
        sums[node] = log10_sum([*terms, 0.0] if node in ends else terms)
    return sums


def log10_sum(logs: Iterable[float]) -> float:
    """log10 of the sum of numbers given by their log10, without overflow; -inf for none."""
    values = list(logs)
    top = max(values, default=-math.inf)
    if not math.isfinite(top):
        return top
    return top + math.log10(math.fsum(10 ** (value - top) for value in values))
