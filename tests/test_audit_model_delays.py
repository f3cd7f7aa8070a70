"""What a step reads of earlier steps is an edge over more of them, however it is carried there."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from delayed_models import DELAYED, FORMS, NEAR_MISSES, D, T, asked, backwards, in_a_branch
from lsc_graph.models.forms import Step

from lsc_graph.audit_model import audit, inspect
from lsc_graph.count_model import gradient_paths
from lsc_graph.results import Analysis, Statistics

STEPS: dict[str, Callable[[], Step]] = {
    **{name: make for name, (make, *_) in DELAYED.items()},
    **{name: make for name, (make, *_) in NEAR_MISSES.items()},
}


X = np.random.default_rng(1).standard_normal((1, T, 1, D)).astype(np.float32)


@cache
def found(name: str, form: str) -> Analysis:
    return audit(FORMS[form](STEPS[name]()), data={"x": X}, num_samples=1, **asked(form))


def means(statistics: list[Statistics | None]) -> list[float | None]:
    return [None if own is None else own.mean for own in statistics]


@pytest.mark.parametrize("form", list(FORMS)[1:])
@pytest.mark.parametrize("name", STEPS)
def test_every_form_has_the_same_layers_edges_paths_and_radii(name: str, form: str) -> None:
    assert_alike(found(name, "Scan"), found(name, form))


def assert_alike(one: Analysis, other: Analysis, direction: int = 1) -> None:
    assert [own.state_size for own in other.layers] == [own.state_size for own in one.layers]
    assert [own.depth_from for own in other.layers] == [own.depth_from for own in one.layers]
    for a, b in zip(one.layers, other.layers, strict=True):
        assert b.depth_times == tuple(tuple(direction * time for time in times) for times in a.depth_times)
    assert other.grid.num_gradient_paths == one.grid.num_gradient_paths
    assert [own.reach for own in other.time_parallel] == [own.reach for own in one.time_parallel]
    for a, b in zip(one.layers, other.layers, strict=True):
        assert means([b.time_radius, b.time_gain, b.depth_gain]) == pytest.approx(
            means([a.time_radius, a.time_gain, a.depth_gain]), abs=1e-5
        )
        for own, its in zip(a.depth_edges, b.depth_edges, strict=True):
            assert means([its.radius, its.gain]) == pytest.approx(means([own.radius, own.gain]), abs=1e-5)


@pytest.mark.parametrize("name", STEPS)
def test_backwards_it_is_the_same_network_in_time_backwards(name: str) -> None:
    model = backwards(FORMS["Scan"](STEPS[name]()))
    data = {"x": X[:, ::-1].copy()}
    assert_alike(found(name, "Scan"), audit(model, data=data, num_samples=1, **asked("Scan")), direction=-1)


@pytest.mark.parametrize("form", ["Scan", "unrolled"])
@pytest.mark.parametrize("name", ["a window of 3", "token shift"])
def test_in_a_branch_that_the_data_take_it_is_the_same_network(name: str, form: str) -> None:
    model = in_a_branch(FORMS[form](STEPS[name]()))
    assert_alike(found(name, "Scan"), audit(model, data={"x": X}, num_samples=1, **asked(form)))


@pytest.mark.parametrize("name", DELAYED)
def test_a_delay_is_no_layer_but_named(name: str) -> None:
    _, num_layers, times = DELAYED[name]
    for form in ("Scan", "streaming"):
        analysis = found(name, form)
        assert [own.depth_times for own in analysis.layers] == times
        assert len(analysis.layers) == num_layers
        (recurrence,) = analysis.recurrences
        assert any(state.is_delay for state in recurrence.states)
        assert not any(own.time_radius is not None and own.time_radius.mean == 0 for own in analysis.layers)


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_what_comes_back_to_itself_is_no_delay(name: str) -> None:
    analysis = found(name, "Scan")
    assert [own.state_size for own in analysis.layers] == NEAR_MISSES[name][1]
    assert not any(state.is_delay for own in analysis.recurrences for state in own.states)


@pytest.mark.parametrize("name", ["a window of 3", "token shift", "read by the output"])
@pytest.mark.parametrize("form", list(FORMS)[1:])
def test_as_many_paths_lead_from_inputs_to_outputs(name: str, form: str) -> None:
    counts = []
    for own in ("Scan", form):
        model = FORMS[own](STEPS[name]())
        ends = {"sources": ["x@0"], "targets": [f"y@{T - 1}" if "dynamo" not in own else f"all_y@{T - 1}"]}
        report = gradient_paths(model, exact=True, **asked(own), **ends)
        counts.append(report.total.num_gradient_paths)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("name", DELAYED)
def test_inspect_knows_the_same_edges_and_paths(name: str) -> None:
    """Also where written-out steps read windows of a sequence, which lie between two recurrences."""
    for form in ("Scan", "unrolled", "steps of the dynamo exporter"):
        seen, measured = inspect(FORMS[form](STEPS[name]()), **asked(form)), found(name, form)
        assert seen.grid.num_gradient_paths == measured.grid.num_gradient_paths
        assert [own.depth_times for own in seen.layers] == [own.depth_times for own in measured.layers]
