"""Rescaling begun again at other points, where a fit had to leave out radii that weights do move.

Where a radius has several ways to go (the largest of several eigenvalues, a threshold's surrogate), the
first few points decide which one a fit takes, and some lead nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from lsc_graph.pretraining.candidates import Candidates
from lsc_graph.pretraining.fit import Fit, Report, later
from lsc_graph.pretraining.fit_state import State
from lsc_graph.pretraining.problem import Problem
from lsc_graph.pretraining.rescaling import Keep, rescale

_MOST_STARTS = 3
# Between the seeds of two starts: those that users choose are small.
_APART = 15_485_863


def rescale_with_restarts(
    problem: Problem,
    values: Sequence[Tensor],
    max_iterations: int,
    report: Report = lambda progress: None,
    keep: Keep | None = None,
    resumed: State | None = None,
) -> Fit:
    """Run `rescale`, from the same weights at other points again while chance may have decided.

    Args:
        problem: what to fit.
        values: of the weights, at first.
        max_iterations: at most so many steps, of all starts together.
        report: called after every iteration.
        keep: called after every iteration with what is needed to go on from there.
        resumed: what `keep` was given, to go on from there.
    """
    fits = [] if resumed is None else [Fit(**fields) for fields in resumed["fits"]]
    state = None if resumed is None else resumed["state"]
    while True:
        before = sum(fit.iterations for fit in fits)
        own = replace(problem, seed=problem.seed + _APART * len(fits))
        kept = _kept(keep, fits)
        fits.append(rescale(own, values, max_iterations - before, later(report, before), kept, state))
        state, last = None, fits[-1]
        is_over = last.is_reached or not last.is_chance or len(fits) == _MOST_STARTS
        if is_over or before + last.iterations >= max_iterations:
            return _best(problem, fits)


def _kept(keep: Keep | None, fits: Sequence[Fit]) -> Keep | None:
    """States with the outcomes of the starts before."""
    if keep is None:
        return None
    found: list[dict[str, Any]] = [
        {name: value for name, value in vars(fit).items() if name != "history"} for fit in fits
    ]
    return lambda state: keep({"fits": found, "state": state})


def _best(problem: Problem, fits: Sequence[Fit]) -> Fit:
    """The outcome whose radii are nearest to their targets at points that no start saw."""
    last = fits[-1]
    if len(fits) == 1:
        return last
    iterations = sum(fit.iterations for fit in fits)
    place = len(fits) - 1 if last.is_reached else _nearest(problem, fits, iterations)
    chosen = fits[place]
    return replace(
        chosen,
        iterations=iterations,
        seconds=sum(fit.seconds for fit in fits),
        stop_reason=f"{chosen.stop_reason} (start {place + 1} of {len(fits)})",
        history=last.history,
    )


def _nearest(problem: Problem, fits: Sequence[Fit], iteration: int) -> int:
    candidates = Candidates(problem)
    seed = problem.seed_of(iteration, 1)
    losses = [candidates.look_at(fit.values, seed).loss(problem.targets) for fit in fits]
    return losses.index(min(losses))
