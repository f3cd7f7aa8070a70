"""The verdict agrees with the measured growth, and says why in words and numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsc_graph.auditing.stability import exponent, judge, recommended_target, stability_index
from lsc_graph.grid.paths import log10_path_sums
from lsc_graph.grid.unroll import GridNode, last_states, unroll
from lsc_graph.layers.cells import CellGraph, DepthEdge, Layer
from lsc_graph.results import Growth, GrowthPoint, Judgement, Verdict

GROWING = (Verdict.EXPLODING, Verdict.SUBEXPONENTIAL)


def growth_of(table: list[GrowthPoint], std_error: float | None = 0.01) -> Growth:
    """A table with its farthest entry's split."""
    far = max(table, key=lambda point: (point.dl, point.dt))
    half = None if far.log10_num_paths is None else far.log10_num_paths / 2
    interference = None if half is None else half * (far.coherence or 0.0)
    local = None if far.measured_log10 is None else far.measured_log10 - (half or 0.0) - (interference or 0.0)
    return Growth(
        dt=far.dt,
        dl=far.dl,
        measured_log10=far.measured_log10,
        coherent_log10=far.coherent_log10,
        incoherent_log10=far.incoherent_log10,
        coherence=far.coherence,
        std_error=std_error,
        paths_log10=half,
        local_log10=local,
        interference_log10=interference,
        table=tuple(table),
    )


def grid(
    a: float,
    b: float,
    num_layers: int,
    num_steps: int,
    coherence: float = 1.0,
    std_error: float | None = 0.01,
) -> Growth:
    """Closed form: N^((1 + kappa) / 2) a^dt b^dl on a rectangular grid."""
    table = []
    for dl in range(num_layers):
        for dt in range(num_steps):
            count = math.log10(math.comb(dt + dl, dl))
            local = dt * math.log10(a) + dl * math.log10(b)
            table.append(
                GrowthPoint(
                    dt=dt,
                    dl=dl,
                    log10_num_paths=count,
                    measured_log10=local + 0.5 * (1.0 + coherence) * count,
                    coherent_log10=local + count,
                    incoherent_log10=local + 0.5 * count,
                    coherence=coherence if count else None,
                )
            )
    return growth_of(table, std_error)


def verdict(growth: Growth, a: float | None, b: float | None) -> Judgement:
    """The judgement where all layers have the same factors."""
    num_layers = 1 + max(point.dl for point in growth.table)
    num_steps = 1 + max(point.dt for point in growth.table)
    return judge(
        growth=growth,
        time_factors=[] if a is None else [a] * num_layers,
        depth_factors=[] if b is None else [b] * (num_layers - 1),
        num_layers=num_layers,
        num_steps=num_steps,
    )


def of_grid(a: float, b: float, num_layers: int, num_steps: int, coherence: float = 1.0) -> Judgement:
    time_factor = a if num_steps > 1 else None
    depth_factor = b if num_layers > 1 else None
    return verdict(grid(a, b, num_layers, num_steps, coherence), time_factor, depth_factor)


def bidirectional(a: float, b: float, num_layers: int, num_steps: int) -> Growth:
    """Coherent growth in a stack of both directions, averaged over the two layers of each depth."""
    layers = [
        Layer(f"{way}{i}", "", None, (), 1, step)
        for i in range(num_layers)
        for way, step in (("f", 1), ("b", -1))
    ]
    edges = [
        DepthEdge(f"{below}{i}", f"{above}{i + 1}")
        for i in range(num_layers - 1)
        for below in "fb"
        for above in "fb"
    ]
    cells = CellGraph(tuple(layers), tuple(edges), num_steps)
    unrolled = unroll(cells)
    weights = {"time": math.log10(a), "depth": math.log10(b)}
    counts = log10_path_sums(unrolled, last_states(cells), lambda *_: 0.0)
    sums = log10_path_sums(unrolled, last_states(cells), lambda tail, head, data: weights[data["kind"]])
    table = []
    for dl in range(num_layers):
        for dt in range(num_steps):
            # By symmetry, the backward layer has the same figures.
            node = GridNode(f"f{num_layers - 1 - dl}", num_steps - 1 - dt)
            count, level = counts[node], sums[node]
            table.append(GrowthPoint(dt, dl, count, level, level, level - count / 2, 1.0 if count else None))
    return growth_of(table)


def curve(levels: list[float | None], std_error: float | None = 0.01) -> Growth:
    """A single recurrent layer, by measured decades at dt = 0, 1, 2, ..."""
    table = [GrowthPoint(dt, 0, 0.0, level, level, level, None) for dt, level in enumerate(levels)]
    return growth_of(table, std_error)


def with_measured(growth: Growth, change: Callable[[GrowthPoint], float | None]) -> Growth:
    table = [replace(point, measured_log10=change(point)) for point in growth.table]
    return growth_of(table, growth.std_error)


def words(judgement: Judgement) -> str:
    return " ".join(judgement.reasons)


# -- the critical line


@pytest.mark.parametrize(
    ("coherence", "p"),
    [(1.0, 1.0), (0.0, 2.0), (0.5, 4 / 3), (None, 1.0), (-0.7, 2.0), (1.4, 1.0)],
    ids=["aligned", "unrelated", "between", "single path", "cancelling", "noise beyond 1"],
)
def test_the_exponent_follows_the_coherence(coherence: float | None, p: float) -> None:
    assert exponent(coherence) == pytest.approx(p)


def test_the_index_of_two_kinds_is_the_sum_of_powers() -> None:
    assert stability_index(0.5, 0.5, 1.0) == 1.0
    assert stability_index(0.6, 0.8, 2.0) == pytest.approx(1.0)


def test_the_index_of_one_kind_is_its_factor_whatever_the_exponent() -> None:
    assert stability_index(0.9, None, 2.0) == 0.9
    assert stability_index(None, 1.1, 1.5) == 1.1
    assert stability_index(None, None, 1.0) is None


@given(coherence=st.floats(-2, 2))
def test_two_factors_at_the_recommended_target_are_critical(coherence: float) -> None:
    p = exponent(coherence)
    target = recommended_target(p, 2)
    assert 0.5 <= target <= 0.7072
    assert stability_index(target, target, p) == pytest.approx(1.0)


def test_with_one_kind_of_edge_the_target_is_one() -> None:
    assert recommended_target(1.0, 1) == recommended_target(2.0, 1) == 1.0
    assert of_grid(0.5, 1.0, 1, 20).recommended_target == 1.0
    assert of_grid(1.0, 0.5, 20, 1).recommended_target == 1.0


def test_the_index_is_made_of_arithmetic_means() -> None:
    growth = grid(1.0, 1.0, 3, 4)
    found = judge(
        growth=growth, time_factors=[0.2, 0.4, 0.6], depth_factors=[0.5, 0.7], num_layers=3, num_steps=4
    )
    assert found.stability_index == pytest.approx(0.4 + 0.6)
    assert found.recommended_target == 0.5


def test_without_any_factor_there_is_neither_index_nor_target() -> None:
    found = judge(growth=grid(1, 1, 3, 4), time_factors=[], depth_factors=[], num_layers=3, num_steps=4)
    assert (found.stability_index, found.recommended_target) == (None, None)


# -- closed forms


@pytest.mark.parametrize(
    ("a", "b", "num_layers", "num_steps", "coherence", "label"),
    [
        (0.5, 0.5, 10, 60, 1.0, Verdict.VANISHING),
        (0.5, 0.5, 8, 8, 1.0, Verdict.STABLE),
        (1.0, 1.0, 10, 60, 1.0, Verdict.SUBEXPONENTIAL),
        (1.0, 1.0, 10, 60, 0.0, Verdict.SUBEXPONENTIAL),
        (1.0, 1.0, 3, 20, 1.0, Verdict.SUBEXPONENTIAL),
        (0.9, 0.9, 10, 60, 1.0, Verdict.SUBEXPONENTIAL),
        (1.0, 0.5, 10, 60, 1.0, Verdict.SUBEXPONENTIAL),
        (1.0, 1.0, 30, 30, 1.0, Verdict.EXPLODING),
        (1.0, 1.0, 60, 10, 1.0, Verdict.EXPLODING),
        (1.05, 1.05, 10, 60, 1.0, Verdict.EXPLODING),
        (1.05, 0.5, 10, 60, 1.0, Verdict.EXPLODING),
        (1.005, 1.0, 10, 500, 1.0, Verdict.EXPLODING),
        (1.0, 1.5, 10, 60, 1.0, Verdict.EXPLODING),
        (0.9, 1.5, 10, 60, 1.0, Verdict.EXPLODING),
        (0.8, 0.8, 2, 60, 1.0, Verdict.VANISHING),
        (0.7071, 0.7071, 10, 11, 0.0, Verdict.STABLE),
        (1.0, 1.0, 10, 60, -1.0, Verdict.STABLE),
        (1.0, 1.0, 1, 60, 1.0, Verdict.STABLE),
        (0.5, 1.0, 1, 60, 1.0, Verdict.VANISHING),
        (1.05, 1.0, 1, 60, 1.0, Verdict.EXPLODING),
        (1.0, 1.0, 30, 1, 1.0, Verdict.STABLE),
        (1.0, 0.8, 30, 1, 1.0, Verdict.VANISHING),
        (1.0, 1.3, 30, 1, 1.0, Verdict.EXPLODING),
    ],
)
def test_closed_forms_have_their_label(
    a: float, b: float, num_layers: int, num_steps: int, coherence: float, label: Verdict
) -> None:
    assert of_grid(a, b, num_layers, num_steps, coherence).label is label


def test_growth_by_path_count_alone_is_told_from_growth_of_the_products() -> None:
    alone, exploding = of_grid(1.0, 1.0, 10, 60), of_grid(1.05, 1.0, 10, 60)
    assert "number of paths alone carries this" in words(alone)
    assert "factor of 1.000 per edge" in words(alone)
    assert "polynomial in time" in words(alone)
    assert "With depth growing along with time it would explode." in alone.reasons
    assert "by a factor of 1.050 per step" in words(exploding)


def test_growth_of_the_products_along_time_is_seen_behind_a_small_depth_factor() -> None:
    # Per edge, the path product shrinks (.952), but per step it grows.
    assert "grows with time, by a factor of 1.050 per step" in words(of_grid(1.05, 0.5, 10, 60))


@pytest.mark.parametrize(
    ("a", "num_steps", "label"),
    [
        (1.01, 20, Verdict.SUBEXPONENTIAL),
        (1.03, 20, Verdict.EXPLODING),
        (1.015, 60, Verdict.SUBEXPONENTIAL),
        (1.015, 100, Verdict.EXPLODING),
    ],
    ids=["within noise", "beyond 2% a step", "less than 2% a step", "less than 2% a step, for long"],
)
def test_slow_growth_of_the_products_counts_by_rate_and_by_amount(
    a: float, num_steps: int, label: Verdict
) -> None:
    assert of_grid(a, 0.8, 10, num_steps).label is label


def test_products_that_grow_only_late_are_seen() -> None:
    def late(point: GrowthPoint) -> float:
        local = -0.05 * min(point.dt, 30) + 0.0105 * max(point.dt - 30, 0)
        return (point.log10_num_paths or 0.0) + local

    found = verdict(with_measured(grid(1.0, 1.0, 10, 60), late), 1.0, 1.0)
    assert found.label is Verdict.EXPLODING
    assert "grows with time, by a factor of 1.024 per step" in words(found)


def test_a_rise_by_path_count_that_falls_steeply_after_is_no_explosion() -> None:
    levels = [0.2, 0.6, 1.0, 1.2, 0.0, -1.5, -3.0, -3.1, -3.2, -3.3, -3.4, -3.45, -3.5]
    moved = with_measured(grid(1, 1, 3, 13), lambda p: levels[p.dt] if p.dl == 2 else 0.0)
    found = verdict(moved, 0.7, 0.7)
    assert found.label is Verdict.SUBEXPONENTIAL
    assert "its largest; over 12 steps and 2 layers it changes by a factor of 10^-3.5" in words(found)


def test_with_as_many_layers_as_steps_the_path_count_is_nearly_exponential() -> None:
    assert "number of paths grows nearly exponentially at this size" in words(of_grid(1.0, 1.0, 30, 30))
    assert of_grid(1.0, 1.0, 30, 60).label is Verdict.SUBEXPONENTIAL


@pytest.mark.parametrize(("wave", "label"), [(0.3, Verdict.SUBEXPONENTIAL), (0.9, Verdict.EXPLODING)])
def test_interference_may_fluctuate_but_growth_must_slow_down(wave: float, label: Verdict) -> None:
    table = []
    for point in grid(1.0, 1.0, 6, 40, 0.0).table:
        dip, half = wave * math.sin(math.pi * point.dt / 39), 0.5 * (point.log10_num_paths or 0.0)
        coherence = -dip / half if half else None
        table.append(replace(point, measured_log10=half - dip if half else 0.0, coherence=coherence))
    found = verdict(growth_of(table), 1.0, 1.0)
    assert found.label is label
    assert ("growth hardly slows down" in words(found)) == (label is Verdict.EXPLODING)


def test_a_peak_before_the_farthest_cell_is_reported_with_it() -> None:
    found = of_grid(0.8, 0.95, 10, 200)
    assert found.label is Verdict.SUBEXPONENTIAL
    assert "its largest; over 199 steps and 9 layers it changes by a factor of 10^-" in words(found)


def test_a_single_layer_that_overshoots_and_decays_explodes_by_its_products() -> None:
    found = verdict(curve([0.0, 0.8, 1.5, 1.2, 0.8, 0.4, 0.0, -0.5, -1.5, -2.5]), 0.7, None)
    assert found.label is Verdict.EXPLODING
    assert "One path's product alone grows by a factor of 31.6 over 2 steps" in words(found)


def test_growth_over_two_steps_has_no_shape_and_explodes() -> None:
    found = of_grid(1.0, 1.0, 40, 2)
    assert found.label is Verdict.EXPLODING
    assert "too few steps" in words(found)


def test_depth_alone_explodes_in_a_single_step() -> None:
    found = of_grid(1.0, 1.3, 30, 1)
    assert "It takes no more than 29 layers" in words(found)
    assert "A single path leads over 29 layers" in words(found)


def test_vanishing_says_where_and_how_fast() -> None:
    found = of_grid(0.5, 1.0, 1, 60)
    assert "shrinks by a factor of 10^17.8 (-17.76 +- 0.01 decades); below a tenth from 4 steps on" in words(
        found
    )
    assert "a factor of 0.500 per step: a half-life of 1.0 steps" in words(found)


def test_vanishing_along_depth_is_placed_in_depth() -> None:
    found = of_grid(1.0, 0.8, 30, 1)
    assert "below a tenth from 11 layers on" in words(found)
    assert "a factor of 0.800 per layer: a half-life of 3.1 layers" in words(found)


def test_a_gradient_that_is_small_at_every_step_is_placed_in_depth() -> None:
    found = of_grid(0.9, 0.1, 4, 10, 0.0)
    assert "below a tenth from 2 layers on" in words(found)


def test_a_bidirectional_stack_that_forgets_the_middle_of_the_sequence_vanishes() -> None:
    # The first step is one edge away from the end of the other direction.
    growth = bidirectional(0.6, 0.6, 2, 32)
    assert growth.measured_log10 == pytest.approx(math.log10(0.6), abs=0.2)
    found = verdict(growth, 0.6, 0.6)
    assert found.label is Verdict.VANISHING
    assert "half-life of 1." in words(found)
    assert "below a tenth from 8 steps and 1 layer on" in words(found)
    assert "Over 31 steps and 1 layer it is back at" in words(found)


def test_where_steps_are_no_distance_nothing_is_extrapolated_over_them() -> None:
    found = verdict(bidirectional(0.9, 0.9, 2, 12), 0.9, 0.9)
    assert found.label is Verdict.STABLE
    assert "Going on" not in words(found)


def test_a_bidirectional_stack_grows_by_its_paths_alone() -> None:
    found = verdict(bidirectional(1.0, 1.0, 2, 32), 1.0, 1.0)
    assert found.label is Verdict.SUBEXPONENTIAL
    assert "number of paths alone carries this" in words(found)
    assert verdict(bidirectional(1.1, 1.0, 2, 32), 1.1, 1.0).label is Verdict.EXPLODING


@pytest.mark.parametrize(
    ("num_layers", "num_steps", "label"), [(4, 32, Verdict.SUBEXPONENTIAL), (8, 5, Verdict.EXPLODING)]
)
def test_a_bidirectional_stack_must_be_long_for_its_paths_to_be_polynomial(
    num_layers: int, num_steps: int, label: Verdict
) -> None:
    assert verdict(bidirectional(1.0, 1.0, num_layers, num_steps), 1.0, 1.0).label is label


def test_many_paths_within_a_single_step_are_exponential_in_depth() -> None:
    counts = [1, 1, 2, 3, 5, 8, 13, 21, 34]  # skips over one layer: Fibonacci
    table = [
        GrowthPoint(
            0, dl, math.log10(n), math.log10(n), math.log10(n), 0.5 * math.log10(n), 1.0 if n > 1 else None
        )
        for dl, n in enumerate(counts)
    ]
    found = verdict(growth_of(table), None, 1.0)
    assert found.label is Verdict.EXPLODING
    assert "It takes no more than 8 layers for a factor of 34" in words(found)


def test_the_main_cause_is_named() -> None:
    assert "The main cause is the number of paths." in of_grid(1.0, 1.0, 10, 60).reasons
    assert "The main cause is the local Jacobians along a path." in of_grid(0.5, 0.5, 10, 60).reasons
    cancelling = of_grid(1.0, 0.9, 10, 60, -1.4)
    assert cancelling.label is Verdict.VANISHING
    assert "The main cause is how the paths interfere." in cancelling.reasons


def test_the_three_factors_add_up_in_the_text() -> None:
    found = next(text for text in of_grid(0.9, 0.9, 10, 60, 0.4).reasons if text.startswith("Of these"))
    total, *parts = (float(number) for number in re.findall(r"[+-]\d+\.\d\d", found))
    assert len(parts) == 3
    assert total == pytest.approx(sum(parts), abs=0.02)
    assert total == pytest.approx(68 * math.log10(0.9) + 0.7 * math.log10(math.comb(68, 9)), abs=0.01)


def test_a_stable_gradient_with_forgotten_cells_says_so() -> None:
    found = of_grid(0.8, 0.8, 5, 30, 0.0)
    assert found.label is Verdict.STABLE
    assert "over 29 steps it is smaller by a factor of 646" in words(found)


def test_a_stable_gradient_that_will_not_stay_so_says_so() -> None:
    found = of_grid(0.97, 1.0, 1, 20)
    assert found.label is Verdict.STABLE
    assert "Going on by 0.970 per step, it would leave that band at some 77 steps." in found.reasons
    assert "Going on" not in words(of_grid(1.0, 1.0, 1, 20))


def test_the_announced_end_of_stability_comes_true() -> None:
    labels = {size: verdict(grid(0.97, 1.0, 1, size, std_error=0.0), 0.97, None).label for size in (76, 77)}
    assert labels == {76: Verdict.STABLE, 77: Verdict.VANISHING}


# -- the index beside the measurement


def test_a_critical_index_beside_a_vanishing_gradient_is_explained_by_the_size() -> None:
    found = of_grid(0.5, 0.5, 10, 60)
    assert found.stability_index == 1.0
    assert "speaks of depth and time growing together" in words(found)
    assert "the same mean factors predict -9.78 decades" in words(found)


def test_an_index_that_the_measurement_contradicts_gives_way() -> None:
    found = verdict(grid(1.2, 1.2, 3, 30), 0.4, 0.4)
    moved = with_measured(grid(0.4, 0.4, 3, 30), lambda point: 0.1 * (point.dt + point.dl))
    disagreeing = verdict(moved, 0.4, 0.4)
    assert found.label is disagreeing.label is Verdict.EXPLODING
    assert disagreeing.stability_index == pytest.approx(0.8)
    assert "The measured gradient disagrees, and it decides" in words(disagreeing)


def test_an_index_that_agrees_is_just_stated() -> None:
    found = of_grid(1.05, 1.0, 10, 60)
    assert "The stability index a^p + b^p is 2.050 with p = 1.00; 1 is critical." in found.reasons


def test_the_index_uses_the_measured_coherence() -> None:
    found = of_grid(0.7071, 0.7071, 10, 11, 0.0)
    assert found.stability_index == pytest.approx(1.0, abs=1e-3)
    assert found.recommended_target == pytest.approx(0.7071, abs=1e-4)


# -- nothing, zero, not a number


def test_a_single_cell_has_no_growth() -> None:
    found = of_grid(1.0, 1.0, 1, 1)
    assert found.label is Verdict.INCONCLUSIVE
    assert found.reasons == ("There is a single layer and a single step: no growth to measure.",)
    assert (found.stability_index, found.recommended_target) == (None, None)


def test_cells_without_a_path_have_no_growth() -> None:
    table = [GrowthPoint(0, 0, 0.0, 0.0, 0.0, 0.0, None), GrowthPoint(0, 1, None, None, None, None, None)]
    found = verdict(growth_of(table), 1.0, 1.0)
    assert found.label is Verdict.INCONCLUSIVE
    assert "No path" in words(found)


def test_cells_without_a_path_are_no_cut() -> None:
    # In a pipeline (lag 1), the lower layer's last state reaches nothing.
    growth = curve([0.0] * 10)
    unreached = GrowthPoint(0, 1, None, None, None, None, None)
    reached = [GrowthPoint(dt, 1, math.log10(dt), 0.2, 0.2, 0.2, 0.0) for dt in range(1, 10)]
    found = verdict(growth_of([*growth.table, unreached, *reached]), 1.0, 1.0)
    assert found.label is Verdict.STABLE
    assert "zero" not in words(found)


def test_a_gradient_of_zero_everywhere_is_cut_and_not_judged() -> None:
    for growth in (grid(1, 1, 4, 5, std_error=None), curve([0.0] * 6, None)):
        zero = with_measured(growth, lambda point: None if point.dt or point.dl else 0.0)
        found = verdict(zero, 0.0, 0.0)
        assert found.label is Verdict.INCONCLUSIVE
        assert "exactly zero everywhere" in words(found)
        assert "no product underflows" in words(found)


def test_a_gradient_that_is_zero_only_far_away_has_vanished() -> None:
    growth = with_measured(grid(1, 1, 3, 8, -1.0, None), lambda p: None if p.dl == 2 and p.dt > 3 else 0.0)
    found = verdict(growth, 1.0, 1.0)
    assert found.label is Verdict.VANISHING
    assert "7 steps and 2 layers before the end the gradient is exactly zero" in words(found)
    assert "cut rather than fading" in words(found)
    assert "from 4 steps and 2 layers on" in words(found)


def test_a_gradient_cut_between_two_layers_is_placed_there() -> None:
    growth = with_measured(grid(1, 1, 4, 8, -1.0, None), lambda point: None if point.dl >= 2 else 0.0)
    assert "below a tenth from 2 layers on" in words(verdict(growth, 1.0, 1.0))


def test_growth_counts_even_where_the_rest_is_cut() -> None:
    growth = with_measured(grid(1.5, 1, 3, 20), lambda p: None if p.dl else 0.176 * p.dt)
    assert verdict(growth, 1.5, 0.0).label is Verdict.EXPLODING


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_figure_that_is_no_number_is_not_judged(value: float) -> None:
    growth = with_measured(grid(1, 1, 3, 8), lambda point: value if point.dt == 5 else point.measured_log10)
    found = verdict(growth, 1.0, 1.0)
    assert found.label is Verdict.INCONCLUSIVE
    assert "no finite number" in words(found)


# -- confidence


@pytest.mark.parametrize("radius", [0.955, 0.975, 1.04, 1.06])
def test_within_two_standard_errors_of_the_threshold_nothing_is_decided(radius: float) -> None:
    size = 61
    level = (size - 1) * math.log10(radius)
    error = abs(abs(level) - 1.0) / 1.9
    found = verdict(grid(radius, 1, 1, size, std_error=error), radius, None)
    assert found.label is Verdict.INCONCLUSIVE
    assert "More samples would decide" in words(found)
    sure = verdict(grid(radius, 1, 1, size, std_error=error * 1.9 / 2.1), radius, None)
    assert sure.label is not Verdict.INCONCLUSIVE


def test_a_large_error_is_no_matter_where_all_readings_agree() -> None:
    assert verdict(grid(0.5, 1, 1, 60, std_error=3.0), 0.5, None).label is Verdict.VANISHING
    assert verdict(grid(1.5, 1, 1, 60, std_error=3.0), 1.5, None).label is Verdict.EXPLODING


def test_an_error_that_spans_the_whole_band_decides_nothing() -> None:
    found = verdict(grid(1, 1, 1, 60, std_error=1.0), 1.0, None)
    assert found.label is Verdict.INCONCLUSIVE
    assert "lower it fades, as many higher it grows too much" in words(found)


@pytest.mark.parametrize(("peak", "is_sure"), [(0.95, False), (0.85, True)])
def test_nearer_cells_have_smaller_errors(peak: float, is_sure: bool) -> None:
    # A quarter of the way, half of the error at the end: two of 0.1 / 2.
    levels: list[float | None] = [0.0] * 17
    levels[4] = peak
    label = verdict(curve(levels, std_error=0.1), 1.0, None).label
    assert (label is Verdict.STABLE) == is_sure
    assert label in (Verdict.STABLE, Verdict.INCONCLUSIVE)


def test_an_unknown_error_is_mentioned() -> None:
    found = verdict(grid(1, 1, 1, 60, std_error=None), 1.0, None)
    assert found.label is Verdict.STABLE
    assert "No standard error is known" in words(found)
    assert "No standard error" not in words(of_grid(1, 1, 1, 60))


def test_few_steps_are_mentioned() -> None:
    assert "Only 3 steps were measured" in words(of_grid(1, 1, 2, 3))
    assert "Only" not in words(of_grid(1, 1, 2, 1))
    assert "Only" not in words(of_grid(1, 1, 1, 20))


@pytest.mark.parametrize("noise", [-0.05, 0.0, 0.05])
def test_a_small_error_in_the_coherence_does_not_change_the_label(noise: float) -> None:
    growth = grid(1.0, 1.0, 3, 20)
    table = [p if p.coherence is None else replace(p, coherence=p.coherence + noise) for p in growth.table]
    assert verdict(growth_of(table), 1.0, 1.0).label is Verdict.SUBEXPONENTIAL


# -- whatever the table


@st.composite
def tables(draw: st.DrawFn) -> Growth:
    num_layers, num_steps = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    decades = st.one_of(st.none(), st.floats(-3, 3), st.sampled_from([-1.0, 0.0, 1.0]))
    table = []
    for dl in range(num_layers):
        for dt in range(num_steps):
            count = draw(st.one_of(st.none(), st.floats(0, 3)))
            measured = 0.0 if dt == dl == 0 else None if count is None else draw(decades)
            coherence = draw(st.one_of(st.none(), st.floats(-1.5, 1.5))) if count else None
            table.append(GrowthPoint(dt, dl, count, measured, draw(decades), draw(decades), coherence))
    return growth_of(table, draw(st.one_of(st.none(), st.floats(0, 1))))


@settings(deadline=None, max_examples=300)
@given(growth=tables(), a=st.floats(0, 2), b=st.floats(0, 2))
def test_the_label_never_contradicts_the_measurement(growth: Growth, a: float, b: float) -> None:
    found = verdict(growth, a, b)
    reached = [p for p in growth.table if (p.dt or p.dl) and p.log10_num_paths is not None]
    levels = [p.measured_log10 for p in reached if p.measured_log10 is not None]
    deepest = [p for p in reached if p.dl == max(q.dl for q in reached)]
    far = max(deepest, key=lambda p: p.dt).measured_log10 if reached else None
    assert found.reasons
    assert all(reason == reason.strip() and reason.endswith(".") for reason in found.reasons)
    assert not any(bad in words(found) for bad in ("nan", "inf ", "None"))
    if found.label in GROWING:
        assert max(levels) > 1.0
    elif found.label is Verdict.VANISHING:
        assert max(levels, default=0.0) <= 1.0
        assert any(p.measured_log10 is None or p.measured_log10 < -1.0 for p in deepest)
    elif found.label is Verdict.STABLE:
        assert max(levels) <= 1.0
        assert far is not None
        assert far >= -1.0


@settings(deadline=None)
@given(
    a=st.floats(0.5, 1.3),
    b=st.floats(0.5, 1.3),
    num_layers=st.integers(1, 8),
    num_steps=st.integers(1, 25),
    coherence=st.floats(0, 1),
)
def test_what_is_growing_stays_so_with_larger_factors(
    a: float, b: float, num_layers: int, num_steps: int, coherence: float
) -> None:
    order = [Verdict.VANISHING, Verdict.STABLE, *GROWING[::-1]]
    if num_layers == num_steps == 1:
        return

    def rank(scale: float) -> int:
        growth = grid(scale * a, scale * b, num_layers, num_steps, coherence, std_error=None)
        return min(order.index(verdict(growth, scale * a, scale * b).label), 2)

    assert rank(0.9) <= rank(1.0) <= rank(1.1)


@settings(deadline=None)
@given(a=st.floats(1.06, 1.5), b=st.floats(0.5, 1.5), num_layers=st.integers(1, 6), coherence=st.floats(0, 1))
def test_products_that_grow_with_time_are_never_called_subexponential(
    a: float, b: float, num_layers: int, coherence: float
) -> None:
    assert of_grid(a, b, num_layers, 40, coherence).label is not Verdict.SUBEXPONENTIAL


@settings(deadline=None)
@given(a=st.floats(0.5, 1.0), b=st.floats(0.5, 1.0), num_layers=st.integers(1, 10), coherence=st.floats(0, 1))
def test_products_that_never_grow_do_not_explode_where_time_is_long(
    a: float, b: float, num_layers: int, coherence: float
) -> None:
    assert of_grid(a, b, num_layers, 40, coherence).label is not Verdict.EXPLODING
