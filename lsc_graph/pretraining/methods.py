"""Fits by the name of their method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from lsc_graph.errors import UsageError
from lsc_graph.pretraining.fit import Fit, Report, later
from lsc_graph.pretraining.gradient import Descent
from lsc_graph.pretraining.paper import PaperDescent
from lsc_graph.pretraining.problem import Problem
from lsc_graph.pretraining.reading import Edge
from lsc_graph.pretraining.restarts import rescale_with_restarts

State = dict[str, Any]
Keep = Callable[[State], None]
First = tuple[Mapping[Edge, str], float]
"""Of a fit that another method goes on from: the reasons for what it did not reach, and its seconds."""
MAX_ITERATIONS = {"rescale": 100, "gradient": 1000, "both": 500, "paper": 1000}
"""Methods, and how many iterations each is given where nobody says."""


def check_method(method: str) -> None:
    """Refuse what is not a method.

    Raises:
        UsageError: there is no such method.
    """
    if method not in MAX_ITERATIONS:
        raise UsageError("There is no such method", got=method, expected=", ".join(MAX_ITERATIONS))


def fit(
    problem: Problem,
    method: str,
    values: Sequence[Tensor],
    max_iterations: int,
    report: Report,
    keep: Keep | None = None,
    resumed: State | None = None,
) -> Fit:
    """Fit by a method.

    Args:
        problem: what to fit.
        method: "rescale", "gradient", "both" (rescale, and where that is not enough gradient), or "paper".
        values: of the weights, at first.
        max_iterations: at most so many.
        report: called after every iteration.
        keep: called after every iteration with what is needed to go on from there.
        resumed: what `keep` was given, to go on from there.
    """
    if resumed is not None:
        problem.reader.blocks.restore(resumed["ranges"])
    is_polishing = resumed is not None and resumed["phase"] == "polish"
    state = None if resumed is None else resumed["state"]
    if method in ("gradient", "paper"):
        descent = Descent(problem, values) if method == "gradient" else PaperDescent(problem, values)
        return descent.fit(max_iterations, report, _kept(problem, keep, "descent"), state)
    before = 0 if resumed is None else resumed["iterations"]
    reasons: Mapping[Edge, str]
    reasons, seconds = ({}, 0.0) if resumed is None else resumed["first"]
    if not is_polishing:
        kept = _kept(problem, keep, "rescale")
        first: Fit = rescale_with_restarts(problem, values, max_iterations, report, kept, state)
        before = first.iterations
        if method == "rescale" or first.is_reached or before >= max_iterations:
            return first
        values, state, reasons, seconds = first.values, None, first.reasons, first.seconds
    polish = Descent(problem, values)
    kept = _kept(problem, keep, "polish", before, (reasons, seconds))
    second = polish.fit(max_iterations - before, later(report, before), kept, state)
    return replace(
        second,
        iterations=before + second.iterations,
        seconds=seconds + second.seconds,
        reasons={} if second.is_reached else dict(reasons),
    )


def _kept(
    problem: Problem, keep: Keep | None, phase: str, iterations: int = 0, first: First = ({}, 0.0)
) -> Keep | None:
    """States with the phase that they belong to, what is needed of the one before it, and ranges."""
    if keep is None:
        return None
    found = {"phase": phase, "iterations": iterations, "first": first}
    return lambda state: keep({**found, "ranges": problem.reader.blocks.state(), "state": state})
