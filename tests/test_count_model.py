"""Counts of whole models: the zoo at every length, the Pascal RNN by autograd, and what users ask for."""

from __future__ import annotations

import json
import math

import pytest
import torch
from lsc_graph.models import registry

from lsc_graph.auditing.measure import Sequences
from lsc_graph.count_model import gradient_paths
from lsc_graph.counting import path_tables
from lsc_graph.counting.count import count_paths
from lsc_graph.counting.ends import Ends, first_ends, last_ends
from lsc_graph.counting.model_cells import model_cells, parse_ends, states_only
from lsc_graph.counting.stretch import stretched
from lsc_graph.errors import UsageError
from lsc_graph.grid.paths import num_gradient_paths
from lsc_graph.grid.unroll import first_states, last_states, unroll
from lsc_graph.planning import Request
from lsc_graph.prepare import prepare
from lsc_graph.report.to_json import to_json


@pytest.mark.parametrize("name", registry.names())
def test_the_transfer_matrix_and_the_unrolled_grid_agree_for_every_model_and_length(name: str) -> None:
    cells, card = model_cells(registry.build(name))[1], registry.card(name)
    inner = states_only(cells)
    lengths = range(1, 51) if card.forms and card.num_steps is None else [cells.num_steps]
    for size in lengths:
        there = stretched(inner, size)
        found = count_paths(there, size, first_ends(there), last_ends(there))
        grid = num_gradient_paths(unroll(there), first_states(there), last_states(there))
        assert found.exact == grid == card.num_gradient_paths(size)
        whole = stretched(cells, size)
        ends = [Ends(layer.id, None) for layer in whole.layers if layer.role == "output"]
        starts = [Ends(layer.id, 0) for layer in whole.layers if layer.role == "input"]
        nodes = [[n for end in chosen for n in unroll_nodes(end, size)] for chosen in (starts, ends)]
        assert count_paths(whole, size, starts, ends).exact == num_gradient_paths(unroll(whole), *nodes)


def unroll_nodes(end: Ends, size: int):
    from lsc_graph.grid.unroll import GridNode

    return [GridNode(end.layer, time) for time in end.times(size)]


@pytest.mark.parametrize("num_layers", [1, 2, 5])
def test_autograd_through_the_pascal_rnn_counts_the_same_paths(num_layers: int) -> None:
    steps = 12
    proto = registry.build("pascal_rnn", num_layers=num_layers, radius=1.0)
    prepared = prepare(proto, Request(steps, {}, {}, (), {}))
    program = Sequences(prepared, "cpu", torch.Generator()).program
    x = torch.zeros(steps, 1, 1, requires_grad=True)
    output = program({"x": x}).outputs["y"].flatten()
    (last,) = torch.autograd.grad(output[-1], x, retain_graph=True)
    (every,) = torch.autograd.grad(output.sum(), x)
    cells = model_cells(proto, num_steps=steps)[1]
    for time in range(steps):
        dt, source = steps - 1 - time, [Ends("input:x", time)]
        counts = [count_paths(cells, steps, source, [Ends("output:y", end)]).exact for end in (-1, None)]
        assert counts == [int(last.flatten()[time]), int(every.flatten()[time])]
        assert counts == [math.comb(num_layers - 1 + dt, dt), math.comb(num_layers + dt, num_layers)]


def test_a_report_says_how_many_where_and_how_they_grow() -> None:
    report = gradient_paths(registry.build("pascal_rnn"), num_steps=20)
    assert report.total.num_gradient_paths == str(math.comb(21, 2))
    assert report.growth is not None
    assert (report.growth.factor_per_step, report.growth.degree) == (1.0, 2)
    assert report.boundary is not None
    assert report.boundary.critical_line == "a^p + b^p = 1"
    rates = {(r.dt, r.dl): r.log10_per_edge for r in report.directions}
    assert rates[1.0, 1.0] == pytest.approx(math.log10(2))
    inputs = {c.time: c.count.num_gradient_paths for c in report.from_inputs if c.layer == "input:x"}
    assert inputs == {t: str(math.comb(2 + 19 - t, 2)) for t in range(20)}
    through = {(c.layer, c.time): c.count.num_gradient_paths for c in report.through_cells}
    assert through["layer_1", 7] == str(math.comb(8, 1) * math.comb(13, 1))
    shares = {(t.source, t.target): t for t in report.edge_targets}
    time_edge = shares["layer_1", "layer_1"]
    assert time_edge.balanced_coherent == 0.5
    assert time_edge.unbalanced_coherent == pytest.approx(20 / 23)
    assert time_edge.unbalanced_incoherent == pytest.approx((20 / 23) ** 0.5)


def test_a_single_layer_has_a_rate_along_time_alone() -> None:
    report = gradient_paths(registry.build("gru", num_layers=1))
    assert [(rate.dt, rate.dl, rate.log10_per_edge) for rate in report.directions] == [
        (1.0, 0.0, pytest.approx(0.0, abs=1e-12))
    ]


def test_a_million_steps_are_counted_from_a_run_of_32() -> None:
    report = gradient_paths(registry.build("lstm", num_layers=4), num_steps=10**6)
    assert (report.num_steps, report.own_steps) == (10**6, 32)
    assert report.total.num_gradient_paths == str(math.comb(10**6 + 2, 3))
    assert not report.notes
    assert report.from_inputs
    through = {(c.layer, c.time): c.count.num_gradient_paths for c in report.through_cells}
    assert through["layer_1", 500_000] == str(500_001 * math.comb(499_999 + 2, 2))
    shares = {(t.source, t.target): t.unbalanced_coherent for t in report.edge_targets}
    assert shares["layer_2", "layer_2"] == pytest.approx(10**6 / (10**6 + 4), rel=1e-12)


def test_what_a_huge_grid_of_both_directions_cannot_show_is_said() -> None:
    report = gradient_paths(registry.build("bidirectional_lstm"), num_steps=10**7)
    assert report.total.num_gradient_paths == str(4 * 10**7)
    assert len(report.notes) == 3
    assert not report.from_inputs
    assert not report.through_cells


def test_a_report_is_json() -> None:
    report = json.loads(to_json(gradient_paths(registry.build("bidirectional_lstm"), num_steps=9)))
    assert report["total"] == {"num_gradient_paths": "36", "log10": math.log10(36)}
    assert report["growth"] is None
    assert report["directions"] == []


def test_digits_are_shown_up_to_a_thousand_or_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path_tables, "MAX_SHOWN_DIGITS", 5)
    proto = registry.build("gru", num_layers=4)
    assert gradient_paths(proto, num_steps=200).total.num_gradient_paths is None
    assert gradient_paths(proto, num_steps=200, exact=True).total.num_gradient_paths == str(math.comb(202, 3))


@pytest.mark.parametrize(
    ("text", "is_source", "expected"),
    [
        ("first", True, {("layer_0", 0), ("layer_1", -1)}),
        ("last", False, {("layer_2", -1), ("layer_3", 0)}),
        ("inputs@every", True, {("input:x", None)}),
        ("input:x@3", True, {("input:x", 3)}),
        ("x", True, {("input:x", 0)}),
        ("layer_1", True, {("layer_1", -1)}),
        ("layer_1", False, {("layer_1", 0)}),
        ("layer_1@first", False, {("layer_1", -1)}),
        ("layer_1@-2", False, {("layer_1", -2)}),
    ],
)
def test_states_are_named_by_layer_and_time(text: str, is_source: bool, expected: set) -> None:
    cells = model_cells(registry.build("bidirectional_lstm"))[1]
    found = parse_ends(text, cells, is_source=is_source)
    assert {(end.layer, end.time) for end in found} == expected


def test_thresholds_that_cut_the_gradient_are_named() -> None:
    assert any(
        "carry no gradient" in note for note in gradient_paths(registry.build("alif"), num_steps=5).notes
    )
    assert not gradient_paths(registry.build("alif_smooth"), num_steps=5).notes


@pytest.mark.parametrize("text", ["layer_9", "layer_0@soon", "@3", ""])
def test_states_that_are_not_there_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no such layer"):
        gradient_paths(registry.build("gru"), num_steps=5, sources=[text])


def test_a_feed_forward_model_has_one_step() -> None:
    proto = registry.build("residual_mlp")
    assert gradient_paths(proto).num_steps == 1
    with pytest.raises(UsageError, match="single step"):
        gradient_paths(proto, num_steps=7)
