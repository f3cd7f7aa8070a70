"""What repeats in a stack: growth in every direction of the depth x time plane, and where it turns stable.

A stack whose levels are all alike is one level, repeated without end; any other cell graph is taken whole and
put on top of itself, the top feeding the bottom. Marking time by z and depth by w, the hops of one period
form a matrix A(z, w), and path sums over (dt, dl) have the generating function (I - A(z, w))^-1. All growth
is in
it: the rate along a direction is a minimum over its singularities (R. Pemantle, M. Wilson, Analytic
Combinatorics in Several Variables), and no direction grows exponentially iff the spectral radius of A(1, 1)
is at most 1. For a plain stack A = a z + b w, which gives the paper's a + b = 1 (arXiv 2308.12075); this
generalisation to skips, several states and both directions is past the paper.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import networkx as nx
import numpy as np

from lsc_graph.counting.hops import Hop, hops_of
from lsc_graph.errors import AnalysisError, UsageError
from lsc_graph.grid.unroll import depths
from lsc_graph.layers.cells import CellGraph

_Numbers = np.ndarray[Any, np.dtype[Any]]
# How large logarithms of z and of weights become; the width of a root's bracket.
_LARGEST_LOG, _PRECISION = 600.0, 1e-15
# Between which logarithms of w the minimum is looked for, and what counts as level at their ends.
_END, _FLAT = 100.0, 1e-6


@dataclass(frozen=True)
class Rise:
    """A hop between two places of the motif, over `lag` steps and `rise` levels."""

    source: int
    target: int
    lag: int
    rise: int
    is_time: bool


@dataclass(frozen=True)
class Motif:
    """One period of a stack: `size` places, and the hops between them.

    `is_exact` says that all levels are alike; else the whole cell graph is the period, put on top of itself.
    """

    size: int
    hops: tuple[Rise, ...]
    is_exact: bool

    def index(self, time_factor: float, depth_factor: float, p: float = 1.0) -> float:
        """The stability index: the spectral radius of A(1, 1) with weights a^p and b^p, critical at 1.

        For a plain stack it is a^p + b^p.
        """
        return self._radius(time_factor**p, depth_factor**p)

    def balanced(self, p: float = 1.0) -> float:
        """The factor a = b at which the stack is critical; 2^(-1/p) for a plain one."""
        radius = self.index(1.0, 1.0)
        return float(radius ** (-1.0 / p)) if radius > 0 else math.inf

    def formula(self) -> str | None:
        """The critical line in words, such as "a^p + 2 b^p = 1", where it is a line in a^p and b^p."""
        numbers = {
            (
                sum(h.is_time for h in self.hops if h.source == place),
                sum(not h.is_time for h in self.hops if h.source == place),
            )
            for place in range(self.size)
        }
        if len(numbers) != 1:
            return None
        terms = [f"{n} {x}^p" if n > 1 else f"{x}^p" for n, x in zip(numbers.pop(), "ab", strict=True) if n]
        return " + ".join(terms) + " = 1" if terms else None

    def growth_rate(self, dt: float, dl: float, time_factor: float = 1.0, depth_factor: float = 1.0) -> float:
        """log10 growth of path sums per (dt, dl): they grow as 10^(n rate) over n dt steps and n dl levels.

        With factors of 1 it is the rate of the number of paths; for a plain stack
        that is log10 of C(n (dt + dl), n dl) to first order in n. -inf where no path leads that way.

        Args:
            dt, dl: the direction, in steps (backwards in a reverse stack) and levels.
            time_factor, depth_factor: weights of the edges.

        Raises:
            UsageError: the direction is not forwards.
            AnalysisError: the motif runs both ways in time: any number of paths lead from any time to any
            other.
        """
        if min(dt, dl) < 0 or dt + dl <= 0:
            raise UsageError(
                "There is no such direction", got=f"dt {dt:g}, dl {dl:g}", expected="0 or more each"
            )
        if len({math.copysign(1, hop.lag) for hop in self.hops if hop.lag}) > 1:
            raise AnalysisError(
                "Growth along a direction is not defined where layers run both ways in time",
                got="hops forwards and backwards",
                expected="hops in one direction",
            )

        rates = (part._rate(dt, dl, time_factor, depth_factor) for part in self._pairs_of_parts)
        return max(rates, default=-math.inf) / math.log(10)

    def _rate(self, dt: float, dl: float, time_factor: float, depth_factor: float) -> float:
        """The rate, in natural logarithms, if parts can be mixed as if each reached the others."""

        def along(log_w: float) -> float:
            """-dt log z - dl log w on the singular curve."""

            def excess(log_z: float) -> float:
                return _log(self._radius(time_factor, depth_factor, log_z, log_w))

            if excess(-math.inf) >= 0:
                return math.inf
            return (-dt * _root(excess) if dt else 0.0) - dl * log_w

        return _minimum(along)

    @cached_property
    def _pairs_of_parts(self) -> list[Motif]:
        """The strongly connected parts, every two together of which one reaches the other.

        A path goes round in parts of which each reaches the next: its rate is the least maximum of theirs.
        These are convex in log w: two of them decide it (Helly's theorem on a line).
        """
        parts = nx.condensation(nx.DiGraph([(hop.source, hop.target) for hop in self.hops]))
        part_of = parts.graph["mapping"]
        inner = [hop for hop in self.hops if part_of[hop.source] == part_of[hop.target]]
        rounds = {part_of[hop.source] for hop in inner}
        pairs = [pair for pair in nx.transitive_closure_dag(parts).edges if rounds.issuperset(pair)]
        alone = rounds - {part for pair in pairs for part in pair}
        return [
            replace(self, hops=tuple(hop for hop in inner if part_of[hop.source] in pair))
            for pair in [*pairs, *((part,) for part in sorted(alone))]
        ]

    def _radius(self, a: float, b: float, log_z: float = 0.0, log_w: float = 0.0) -> float:
        places, is_time, lags, rises = self._table
        logs = np.where(is_time, _log(a), _log(b)) + _times(lags, log_z) + _times(rises, log_w)
        matrix = np.zeros((self.size, self.size))
        np.add.at(matrix, places, np.exp(np.minimum(logs, _LARGEST_LOG)))
        return float(max(abs(np.linalg.eigvals(matrix)), default=0.0))

    @cached_property
    def _table(self) -> tuple[tuple[_Numbers, _Numbers], _Numbers, _Numbers, _Numbers]:
        """Places, whether over time, |lag| and rise, hop by hop."""
        hops = self.hops
        places = (np.array([h.source for h in hops], int), np.array([h.target for h in hops], int))
        is_time = np.array([h.is_time for h in hops], bool)
        return places, is_time, np.array([abs(h.lag) for h in hops]), np.array([h.rise for h in hops])


def motif_of(cells: CellGraph) -> Motif:
    """What repeats in a cell graph; inputs and outputs are no part of it.

    Raises:
        AnalysisError: edges are known at single times only.
    """
    hops = [hop for hop in hops_of(cells) if _is_inner(cells, hop)]
    if any(hop.pairs is not None for hop in hops):
        raise AnalysisError(
            "What repeats in the stack is not known",
            got="edges between single times",
            expected="edges that are the same at every step",
        )
    states = tuple(layer for layer in cells.layers if layer.role == "state")
    edges = tuple(e for e in cells.depth_edges if {e.source, e.target} <= {layer.id for layer in states})
    depth = depths(CellGraph(states, edges, cells.num_steps))
    levels: dict[int, list[str]] = defaultdict(list)
    for layer in states:
        levels[depth[layer.id]].append(layer.id)
    return _level_motif(hops, depth, levels) or _whole_motif(hops, depth, levels)


def _is_inner(cells: CellGraph, hop: Hop) -> bool:
    role = {layer.id: layer.role for layer in cells.layers}
    return role[hop.source] == role[hop.target] == "state"


def _level_motif(hops: list[Hop], depth: dict[str, int], levels: dict[int, list[str]]) -> Motif | None:
    """One level, if all are alike and so are the hops between them."""
    place = {layer: index for ids in levels.values() for index, layer in enumerate(ids)}
    seen: dict[Rise, set[int]] = defaultdict(set)
    for hop in hops:
        rise = depth[hop.target] - depth[hop.source]
        found = Rise(place[hop.source], place[hop.target], hop.lag, rise, hop.kind == "time")
        seen[found].add(depth[hop.source])
    sizes = {len(ids) for ids in levels.values()}
    num_levels = len(levels)
    alike = all(len(at) == num_levels - abs(hop.rise) for hop, at in seen.items())
    if len(sizes) != 1 or not alike or any(hop.rise < 0 for hop in seen):
        return None
    return Motif(sizes.pop(), tuple(seen), is_exact=True)


def _whole_motif(hops: list[Hop], depth: dict[str, int], levels: dict[int, list[str]]) -> Motif:
    """All layers, the top level feeding the bottom of the next copy."""
    place = {layer: index for index, layer in enumerate(depth)}
    found = [
        Rise(
            place[hop.source],
            place[hop.target],
            hop.lag,
            depth[hop.target] - depth[hop.source],
            hop.kind == "time",
        )
        for hop in hops
    ]
    top, bottom = levels[max(levels)], levels[min(levels)]
    found += [Rise(place[above], place[below], 0, 1, is_time=False) for above in top for below in bottom]
    return Motif(len(place), tuple(found), is_exact=False)


def _log(number: float) -> float:
    return math.log(number) if number > 0 else -math.inf


def _times(numbers: _Numbers, log: float) -> _Numbers:
    """Logarithms of powers, of which the power 0 is 1 for any base."""
    return np.multiply(numbers, log, where=numbers != 0, out=np.zeros(len(numbers)))


def _root(excess: Callable[[float], float]) -> float:
    """The zero of an increasing, convex function that is negative far to the left; inf if it has none."""
    low = high = 0.0
    below = above = excess(0.0)
    while above < 0:
        low, below, high = high, above, 2.0 * high + 1.0
        if high > _LARGEST_LOG:
            return math.inf
        above = excess(high)
    while below >= 0:
        high, above, low = low, below, 2.0 * low - 1.0
        below = excess(low)
    return _between(excess, low, high, below, above)


def _between(
    function: Callable[[float], float], low: float, high: float, below: float, above: float
) -> float:
    """The zero of an increasing function, by secants within a bracket (Illinois), exact but for rounding."""
    was_below = None
    while above > 0 and high - low > _PRECISION * max(1.0, abs(low), abs(high)):
        share = below / (below - above) if math.isfinite(below) else 0.5
        middle = low + share * (high - low)
        if not low < middle < high:
            middle = 0.5 * (low + high)
        at = function(middle)
        is_below = at < 0
        if is_below:
            low, below, above = middle, at, above / 2 if was_below else above
        else:
            high, above, below = middle, at, below / 2 if was_below is False else below
        was_below = is_below
    return high


def _minimum(function: Callable[[float], float]) -> float:
    """The minimum of a convex function of a logarithm, by golden section; -inf if it falls without end."""
    ratio = (math.sqrt(5) - 1) / 2
    low, high = -_END, _END
    for end, before in ((low, low + 1), (high, high - 1)):
        if function(end) < function(before) - _FLAT:
            return -math.inf
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    at_a, at_b = function(a), function(b)
    for _ in range(70):
        if at_a <= at_b:
            high, b, at_b = b, a, at_a
            a = high - ratio * (high - low)
            at_a = function(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + ratio * (high - low)
            at_b = function(b)
    return min(at_a, at_b)
