"""The transfer matrix agrees with the unrolled DAG on random cell graphs, and with closed forms far out."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from cell_graphs import bidirectional, cell_graph, counted_on_the_grid, coupled, one_way_graphs, skips, stack
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lsc_graph.counting.ends import Ends
from lsc_graph.counting.hops import Hop
from lsc_graph.counting.transfer import TransferMatrix
from lsc_graph.errors import AnalysisError, UsageError
from lsc_graph.grid.paths import log10_path_sums
from lsc_graph.grid.unroll import GridNode, unroll
from lsc_graph.layers.cells import DepthEdge


@settings(deadline=None, max_examples=300)
@given(cells=one_way_graphs(), num_steps=st.integers(1, 12), data=st.data())
def test_counts_agree_with_the_unrolled_grid(cells, num_steps, data) -> None:
    ids = st.sampled_from([layer.id for layer in cells.layers])
    sources, targets = data.draw(st.sets(ids, min_size=1)), data.draw(st.sets(ids, min_size=1))
    matrix = TransferMatrix.of(cells)
    first, last = (0, -1) if matrix.direction > 0 else (-1, 0)
    expected = counted_on_the_grid(
        cells, num_steps, [Ends(s, first) for s in sources], [Ends(t, last) for t in targets]
    )
    assert matrix.num_paths(sources, targets, num_steps - 1) == expected


@settings(deadline=None, max_examples=100)
@given(cells=one_way_graphs(), num_steps=st.integers(1, 12), data=st.data())
def test_weighted_sums_agree_with_the_unrolled_grid(cells, num_steps, data) -> None:
    source, target = (data.draw(st.sampled_from(cells.layers)).id for _ in range(2))
    logs = st.one_of(st.just(-math.inf), st.floats(-3, 3))
    weights = {
        pair: data.draw(logs) for pair in sorted({(u.id, v.id) for u in cells.layers for v in cells.layers})
    }
    matrix = TransferMatrix.of(cells)
    first, last = (0, num_steps - 1) if matrix.direction > 0 else (num_steps - 1, 0)
    sums = log10_path_sums(
        unroll(cells, num_steps), [GridNode(target, last)], lambda u, v, _: weights[u.layer, v.layer]
    )
    found = matrix.log10_path_sum([source], [target], num_steps - 1, lambda h: weights[h.source, h.target])
    assert found == pytest.approx(sums[GridNode(source, first)], abs=1e-9)


@pytest.mark.parametrize("num_layers", [1, 2, 10, 100])
@pytest.mark.parametrize("dt", [0, 1, 999_999])
def test_a_rectangle_has_a_binomial_number_of_paths_at_any_length(num_layers: int, dt: int) -> None:
    matrix, dl = TransferMatrix.of(stack(num_layers)), num_layers - 1
    count = math.comb(dt + dl, dl)
    assert matrix.num_paths(["l0"], [f"l{dl}"], dt) == count
    log = matrix.log10_path_sum(["l0"], [f"l{dl}"], dt, lambda hop: -0.3)
    assert log == pytest.approx(math.log10(count) - 0.3 * (dt + dl), rel=1e-12, abs=1e-9)


def test_a_million_steps_and_a_hundred_layers_are_immediate() -> None:
    matrix = TransferMatrix.of(stack(100))
    start = time.perf_counter()
    count = matrix.num_paths(["l0"], ["l99"], 999_999)
    log = matrix.log10_path_sum(["l0"], ["l99"], 999_999, lambda hop: 0.0)
    assert time.perf_counter() - start < 5.0
    assert log == pytest.approx(math.log10(count), rel=1e-12)


def test_dense_connections_within_a_step_stay_exact() -> None:
    ids = [f"l{index}" for index in range(120)]
    edges = [DepthEdge(a, b) for i, a in enumerate(ids) for b in ids[i + 1 :]]
    feedback = DepthEdge(ids[-1], ids[0], 1)
    dense = cell_graph(dict.fromkeys(ids, 0), [*edges, feedback])
    assert TransferMatrix.of(dense).num_paths(["l0"], ["l119"], 1) == 2**118 * 2**118


def test_growth_is_that_of_long_counts() -> None:
    assert TransferMatrix.of(stack(7)).growth() == (0.0, 6)
    log10_factor, degree = TransferMatrix.of(coupled()).growth()
    assert (10**log10_factor, degree) == (pytest.approx(2.0), 0)
    golden = cell_graph({"a": 1, "b": 0}, [DepthEdge("a", "b", 1), DepthEdge("b", "a", 1)])
    assert 10 ** TransferMatrix.of(golden).growth()[0] == pytest.approx((1 + 5**0.5) / 2)


def test_growth_takes_the_weights_and_the_way_with_most_of_the_largest() -> None:
    matrix = TransferMatrix.of(stack(4))
    factors = {"l0": -0.1, "l1": -0.2, "l2": -0.1, "l3": -0.3}
    found = matrix.growth(lambda hop: factors[hop.source] if hop.kind == "time" else 0.0)
    assert found == (-0.1, 1)


def test_where_no_path_goes_on_there_is_no_growth() -> None:
    assert TransferMatrix.of(stack(3, time_step=0)).growth() == (-math.inf, 0)


@settings(deadline=None, max_examples=50)
@given(cells=one_way_graphs(max_lag=1))
def test_growth_is_the_spectral_radius_of_the_step(cells) -> None:
    # The oracle: (I - A_0)^-1 A_1 as a dense matrix of all layers.
    index = {layer.id: i for i, layer in enumerate(cells.layers)}
    lagged = np.zeros((2, len(index), len(index)))
    for hop in TransferMatrix.of(cells).hops:
        lagged[abs(hop.lag), index[hop.source], index[hop.target]] = 1.0
    radius = max(abs(np.linalg.eigvals(np.linalg.inv(np.eye(len(index)) - lagged[0]) @ lagged[1])))
    assume(radius > 0.9)  # nilpotent ones have eigenvalues that are noise
    # Eigenvalues of defective matrices are known to a root of the precision only.
    assert 10 ** TransferMatrix.of(cells).growth()[0] == pytest.approx(radius, abs=2e-3)


def test_series_say_whether_they_are_polynomial() -> None:
    assert TransferMatrix.of(skips(5)).series(["l0"], ["l4"]).is_polynomial
    assert not TransferMatrix.of(coupled()).series(["a"], ["b"]).is_polynomial


def test_against_time_there_is_no_path() -> None:
    matrix = TransferMatrix.of(stack(2))
    assert matrix.num_paths(["l0"], ["l1"], -1) == matrix.num_paths(["l1"], ["l0"], 5) == 0
    assert matrix.log10_path_sum(["l1"], ["l0"], 5, lambda hop: 0.0) == -math.inf
    assert matrix.log10_path_sum(["l0"], ["l1"], -1, lambda hop: 0.0) == -math.inf


def test_both_directions_and_listed_times_are_refused() -> None:
    listed = cell_graph({"a": 1, "b": 1}, [DepthEdge("a", "b", time_pairs=((0, 0),))])
    for cells in (bidirectional(2), listed):
        with pytest.raises(AnalysisError, match="does not repeat itself"):
            TransferMatrix.of(cells)


def test_a_circle_within_a_step_is_refused() -> None:
    for hops in ([Hop("a", "b", 0, "depth"), Hop("b", "a", 0, "depth")], [Hop("a", "a", 0, "depth")]):
        with pytest.raises(AnalysisError, match="within one step"):
            TransferMatrix(hops, ["a", "b"])


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="no such layer"):
        TransferMatrix.of(stack(2)).num_paths(["l0"], ["l7"], 1)
