"""Rates agree with long counts, and the boundary is where long path sums turn."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from itertools import product

import networkx as nx
import pytest
from cell_graphs import bidirectional, cell_graph, coupled, skips, stack, with_terminals
from hypothesis import given, settings
from hypothesis import strategies as st

from lsc_graph.auditing.stability import stability_index
from lsc_graph.counting.motif import Motif, Rise, motif_of
from lsc_graph.counting.transfer import TransferMatrix
from lsc_graph.errors import AnalysisError, UsageError
from lsc_graph.layers.cells import DepthEdge


@settings(deadline=None, max_examples=30)
@given(dt=st.floats(0.1, 10), dl=st.floats(0.1, 10), a=st.floats(0.1, 2), b=st.floats(0.1, 2))
def test_the_rate_of_a_plain_stack_is_that_of_the_binomial(dt, dl, a, b) -> None:
    share = dl / (dt + dl)
    entropy = -(share * math.log10(share) + (1 - share) * math.log10(1 - share))
    expected = (dt + dl) * entropy + dt * math.log10(a) + dl * math.log10(b)
    assert motif_of(stack(3)).growth_rate(dt, dl, a, b) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("direction", [(2, 1), (1, 1), (1, 3)])
@pytest.mark.parametrize("make", [stack, skips])
def test_the_rate_is_that_of_long_and_deep_counts(make, direction: tuple[int, int]) -> None:
    dt, dl = (40 * part for part in direction)
    rates = []
    for size in (1, 2):
        matrix = TransferMatrix.of(make(size * dl + 1))
        rates.append(matrix.log10_path_sum(["l0"], [f"l{size * dl}"], size * dt, lambda hop: 0.0))
    # Along a direction counts are 10^(n rate) / sqrt(n) but for a constant.
    slope = (rates[1] - rates[0] + 0.5 * math.log10(2)) / 40
    assert motif_of(make(4)).growth_rate(*direction) == pytest.approx(slope, rel=1e-3)


def test_along_an_axis_a_single_path_remains() -> None:
    motif = motif_of(stack(3))
    assert motif.growth_rate(1, 0) == pytest.approx(0.0, abs=1e-9)
    assert motif.growth_rate(0, 1) == pytest.approx(0.0, abs=1e-9)
    assert motif.growth_rate(1, 0, 0.5, 2.0) == pytest.approx(math.log10(0.5), abs=1e-9)


@pytest.mark.parametrize(
    ("cells", "line", "ways"),
    [
        (stack(4), "a^p + b^p = 1", 2),
        (stack(1), "a^p = 1", 1),
        (stack(4, time_step=0), "b^p = 1", 1),
        (skips(6), "a^p + 2 b^p = 1", 3),
        (bidirectional(3), "a^p + 2 b^p = 1", 3),
        (coupled(), "a^p + b^p = 1", 2),
        (with_terminals(stack(4)), "a^p + b^p = 1", 2),
    ],
)
def test_the_critical_line_counts_the_ways_on(cells, line: str, ways: int) -> None:
    motif = motif_of(cells)
    assert motif.is_exact
    assert motif.formula() == line
    for p in (1.0, 1.4, 2.0):
        assert motif.balanced(p) == pytest.approx(ways ** (-1 / p))
        assert motif.index(motif.balanced(p), motif.balanced(p), p) == pytest.approx(1.0)


@given(a=st.floats(0.05, 2), b=st.floats(0.05, 2), p=st.floats(1, 2))
def test_the_index_of_a_plain_stack_is_that_of_the_verdict(a: float, b: float, p: float) -> None:
    assert motif_of(stack(3)).index(a, b, p) == pytest.approx(stability_index(a, b, p))


@pytest.mark.parametrize("factor", [0.98, 1.02])
@pytest.mark.parametrize(("make", "b"), [(stack, 0.6), (skips, 0.3)])
def test_beyond_the_boundary_sums_explode_in_some_direction_and_within_it_in_none(make, b, factor) -> None:
    motif = motif_of(make(5))
    a = 0.4
    assert motif.index(a, b) == pytest.approx(1.0)
    rates = [motif.growth_rate(dt, 1.0, factor * a, factor * b) for dt in (0.1 * k for k in range(60))]
    assert (max(rates) > 0) == (factor > 1)


def test_a_stack_that_does_not_repeat_is_repeated_as_a_whole() -> None:
    # A skip that only the first layer has.
    edges = [*stack(4).depth_edges, DepthEdge("l0", "l2")]
    motif = motif_of(cell_graph(dict.fromkeys(["l0", "l1", "l2", "l3"], 1), edges))
    assert not motif.is_exact
    assert motif.formula() is None
    # One period: b / (1 - a) for every edge upwards; to l2 directly or by l1, to l3, and on to the next.
    up = 0.819172513396165  # of which the third and the fourth power are 1 together
    assert up**3 + up**4 == pytest.approx(1.0)
    a = 0.3
    assert motif.index(a, up * (1 - a)) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(4))
def test_a_direction_has_a_rate_where_rounds_through_the_motif_add_up_to_it(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(12):
        places = [(rng.randrange(3), rng.randrange(3), rng.choice((0, 1, 1, 2, 5))) for _ in range(7)]
        hops = {Rise(*place, rng.choice((0, 1, 2)) if place[2] else 1, place[2] > 0) for place in places}
        motif = Motif(3, tuple(hops), is_exact=True)
        rounds = _rounds(motif)
        for dt, dl in ((1, 0), (5, 2), (1, 1), (1, 3), (0, 1)):
            slope = math.atan2(dl, dt)
            is_reached = any(
                min(one, other) - 1e-9 <= slope <= max(one, other) + 1e-9
                for (one, at), (other, to) in product(rounds, rounds)
                if nx.has_path(graph_of(motif), at, to)
            )
            assert (motif.growth_rate(dt, dl, 0.5, 0.9) > -math.inf) == is_reached


def graph_of(motif: Motif) -> nx.DiGraph:
    return nx.DiGraph([(hop.source, hop.target) for hop in motif.hops])


def _rounds(motif: Motif) -> set[tuple[float, int]]:
    """The slope of every way from a place to itself that passes no place twice, and that place."""
    hops: dict[tuple[int, int], list[Rise]] = defaultdict(list)
    for hop in motif.hops:
        hops[hop.source, hop.target].append(hop)
    cycles = nx.simple_cycles(graph_of(motif))
    edges = ((cycle[0], zip(cycle, cycle[1:] + cycle[:1], strict=True)) for cycle in cycles)
    ways = ((at, way) for at, cycle in edges for way in product(*(hops[edge] for edge in cycle)))
    return {(math.atan2(sum(hop.rise for hop in way), sum(hop.lag for hop in way)), at) for at, way in ways}


@pytest.mark.parametrize("is_joined", [False, True])
def test_parts_are_mixed_by_paths_only_where_one_reaches_the_other(is_joined: bool) -> None:
    """One part leads far in time, the other one in depth; with a way between them paths do both.

    Against a count of all paths over a hundred and two hundred hops' worth of steps and levels.
    """
    hops = [Rise(0, 0, 1, 0, True), Rise(0, 0, 1, 0, True), Rise(0, 0, 1, 1, True)]
    hops += [Rise(1, 1, 0, 1, False), Rise(1, 1, 0, 1, False), Rise(1, 1, 1, 1, True)]
    motif = Motif(2, (*hops, *([Rise(0, 1, 0, 1, False)] if is_joined else [])), is_exact=True)
    short, long = (_log10_count(motif, n, n) for n in (100, 200))
    # Sums over n hops grow as n^c 10^(rate n): what the power gives is lost in the difference.
    assert motif.growth_rate(1, 1) == pytest.approx((long - short) / 100, abs=0.01)


def _log10_count(motif: Motif, dt: int, dl: int) -> float:
    """Of all paths over so many steps and levels, from any place to any other, one hop after the other."""
    counts = {(0, 0): dict.fromkeys(range(motif.size), 1)}
    for lag, rise in product(range(dt + 1), range(dl + 1)):
        here = counts.setdefault((lag, rise), dict.fromkeys(range(motif.size), 0))
        for hop in motif.hops:
            before = counts.get((lag - hop.lag, rise - hop.rise))
            if before is not None and (hop.lag or hop.rise):
                here[hop.target] += before[hop.source]
    return math.log10(sum(counts[dt, dl].values()))


def test_directions_that_are_none_are_refused() -> None:
    for dt, dl in ((-1.0, 1.0), (0.0, 0.0)):
        with pytest.raises(UsageError, match="no such direction"):
            motif_of(stack(2)).growth_rate(dt, dl)
    with pytest.raises(AnalysisError, match="both ways in time"):
        motif_of(bidirectional(2)).growth_rate(1, 1)


def test_edges_at_single_times_have_no_motif() -> None:
    cells = cell_graph({"a": 1, "b": 1}, [DepthEdge("a", "b", time_pairs=((0, 0),))])
    with pytest.raises(AnalysisError, match="not known"):
        motif_of(cells)
