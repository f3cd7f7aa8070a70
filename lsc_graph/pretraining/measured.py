"""How radii answer to the unknowns, by a finite change of each, read at the same points before and after.

A surrogate says what to hand on along the paths that the local Jacobians are made of. How often a threshold
is crossed changes with the weights, too, and of that it says nothing: steps that follow it lead anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lsc_graph.pretraining.estimate import work_of
from lsc_graph.pretraining.problem import Problem
from lsc_graph.pretraining.reading import Reading
from lsc_graph.pretraining.unknowns import Unknowns

_CHANGE = 0.1
# So many operations on spectra are spent on one set of them at most.
_MOST_WORK = 3e9
# Samples, and steps of each.
_POINTS = 8, 4


def can_measure(problem: Problem, unknowns: Unknowns) -> bool:
    """Whether sensitivities can be afforded where derivatives do not tell them."""
    return problem.has_surrogate and 2 * len(unknowns) * work_of(problem.reader, *_POINTS) <= _MOST_WORK


def measured_slopes(
    problem: Problem, unknowns: Unknowns, values: Sequence[Tensor], seed: int
) -> tuple[list[Reading], Tensor]:
    """Readings at the points of a seed, and d mean radius / d unknown [R, K] by central differences.

    Raises:
        NotFiniteError: a radius is no number there, or next to it.
    """
    readings = problem.read(values, *_POINTS, seed, with_derivative=False)
    columns = [_slope(problem, unknowns, values, seed, number) for number in range(len(unknowns))]
    return readings, torch.stack(columns, 1) if columns else torch.zeros(len(readings), 0).double()


def _slope(problem: Problem, unknowns: Unknowns, values: Sequence[Tensor], seed: int, number: int) -> Tensor:
    """What one unknown does to each mean, [R]."""
    means = []
    for change in (_CHANGE, -_CHANGE):
        step = torch.zeros(len(unknowns))
        step[number] = change
        with torch.no_grad():
            changed = unknowns.apply(values, step)
        readings = problem.read(changed, *_POINTS, seed, with_derivative=False)
        means.append(torch.tensor([reading.mean for reading in readings], dtype=torch.float64))
    return (means[0] - means[1]) / (2 * _CHANGE)
