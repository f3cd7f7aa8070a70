"""Finite changes find the way off a plateau, and cost little where there is none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lsc_graph.models.registry import build

from lsc_graph.pretraining.job import prepare_job
from lsc_graph.pretraining.probes import best_probe, radii_without_weights
from lsc_graph.pretraining.problem import Problem
from lsc_graph.pretraining.reading import Edge
from lsc_graph.pretraining.targets import Wish
from lsc_graph.pretraining.trainable import as_trained
from lsc_graph.pretraining.unknowns import Unknowns


def problem_of(name: str, target: str = "half", freeze: Sequence[str] = ()) -> Problem:
    steps = None if name == "residual_mlp" else 8
    return prepare_job(build(name), Wish(target), num_steps=steps, freeze=freeze).problem


def mean_of(problem: Problem, values: Sequence[torch.Tensor], edge: Edge) -> float:
    (reading,) = problem.read(values, 8, 4, 99, with_derivative=False, only=[edge])
    return reading.mean


def test_a_forget_gate_is_moved_off_the_plateau_of_a_maximum() -> None:
    problem, edge = problem_of("slstm"), ("layer_0", "layer_0")
    values = as_trained(problem.weights)
    assert mean_of(problem, values, edge) > 0.95
    found = best_probe(problem, Unknowns(problem.weights, problem.widths, {}), values, [edge], 3)
    assert found.values is not None
    assert abs(mean_of(problem, found.values, edge) - 0.5) < 0.2
    unknowns = Unknowns(problem.weights, problem.widths, {})
    assert best_probe(problem, unknowns, values, [edge], 3, most=1e-3).values is None


def test_nothing_is_tried_where_no_trained_weight_reaches() -> None:
    problem = problem_of("gru", freeze=["layer_0*"])
    unknowns = Unknowns(problem.weights, problem.widths, {})
    found = best_probe(problem, unknowns, as_trained(problem.weights), [("layer_0", "layer_0")], 3)
    assert (found.count, found.values) == (0, None)


def test_saturated_gates_are_left_by_weights_that_are_smaller_together_but_not_gone() -> None:
    problem, edge = problem_of("lstm"), ("layer_0", "layer_0")
    names = [weight.names[0] for weight in problem.weights]
    saturated = [
        value + 30.0 * ("bias" in name)
        for value, name in zip(as_trained(problem.weights), names, strict=True)
    ]
    unknowns = Unknowns(problem.weights, problem.widths, {})
    assert mean_of(problem, saturated, edge) > 0.999
    found = best_probe(problem, unknowns, saturated, [edge], 3)
    assert found.values is not None
    assert mean_of(problem, found.values, edge) < 0.95
    assert all(
        bool((new.abs() > 1e-3 * old.abs()).any()) for new, old in zip(found.values, saturated, strict=True)
    )


def test_skips_hold_a_radius_at_one_without_any_weight() -> None:
    problem = problem_of("residual_mlp")
    bare = radii_without_weights(problem, as_trained(problem.weights), list(problem.targets), 3)
    assert len(bare) == len(problem.targets)
    assert all(abs(radius - 1) < 1e-5 for radius in bare.values())
