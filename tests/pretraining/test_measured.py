"""Sensitivities by finite changes: those of derivatives where these hold, and only where they are wanted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lsc_graph.models.registry import build

from lsc_graph.pretraining.candidates import Candidates
from lsc_graph.pretraining.job import prepare_job
from lsc_graph.pretraining.measured import can_measure, measured_slopes
from lsc_graph.pretraining.problem import Problem
from lsc_graph.pretraining.rescaling import _Run
from lsc_graph.pretraining.slopes import slopes_of
from lsc_graph.pretraining.targets import Wish
from lsc_graph.pretraining.trainable import as_trained
from lsc_graph.pretraining.unknowns import Unknowns
from lsc_graph.to_torch.surrogates import parse_surrogate


def problem_of(name: str) -> Problem:
    surrogate = parse_surrogate("fast-sigmoid") if name == "alif" else None
    return prepare_job(build(name), Wish("half"), num_steps=6, surrogate=surrogate).problem


def unknowns_of(problem: Problem) -> Unknowns:
    return Unknowns(problem.weights, problem.widths, {})


@pytest.mark.parametrize("name", ["tanh_rnn", "gru"])
def test_where_nothing_is_cut_they_are_those_of_derivatives(name: str) -> None:
    problem = problem_of(name)
    unknowns, values = unknowns_of(problem), as_trained(problem.weights)
    leaves = [value.detach().requires_grad_() for value in values]
    readings = problem.read(leaves, 8, 4, 3)
    found, slopes = measured_slopes(problem, unknowns, values, 3)
    assert [r.edge for r in found] == [r.edge for r in readings]
    exact = slopes_of(readings, leaves, unknowns)
    assert float((slopes - exact).norm()) < 0.05 * float(exact.norm())


def test_they_are_for_models_with_surrogates_that_are_not_too_large() -> None:
    problem = problem_of("alif")
    unknowns = unknowns_of(problem)
    assert can_measure(problem, unknowns)
    assert not can_measure(replace(problem, has_surrogate=False), unknowns)
    problem.reader.blocks.sizes = dict.fromkeys(problem.targets, 700)
    assert not can_measure(problem, unknowns)


def run_of(name: str) -> _Run:
    problem = problem_of(name)
    run = _Run(problem, as_trained(problem.weights), {}, Candidates(problem))
    run.iterate(0)
    run.move()
    return run


def test_a_fit_that_surrogates_lead_nowhere_begins_again_by_measuring(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = run_of("alif")
    assert not run.begins_to_measure()
    run.course.since_best = 4
    assert run.begins_to_measure()
    assert not run.begins_to_measure()
    assert all(map(torch.equal, run.values, as_trained(run.problem.weights)))
    monkeypatch.setattr(run, "_slopes", None)
    run.iterate(1)
    assert run.sensitivities.mean.shape == (len(run.problem.targets), len(unknowns_of(run.problem)))


def test_a_fit_with_derivatives_of_its_own_never_measures() -> None:
    run = run_of("tanh_rnn")
    run.course.since_best = 4
    assert not run.begins_to_measure()
