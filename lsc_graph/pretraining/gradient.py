"""Gradient descent on the loss of the local stability condition, over every element of the trained weights.

loss = mean over radii of (E[radius] - target)^2 (the paper, section 3). The mean's derivative comes from the
readings, so that a step costs one backward pass whatever the number of radii.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from lsc_graph.pretraining.fit import Fit, Progress, Report
from lsc_graph.pretraining.problem import Problem
from lsc_graph.pretraining.reading import Edge, NotFiniteError, Reading
from lsc_graph.pretraining.shards import total

State = dict[str, Any]
Keep = Callable[[State], None]
LEARNING_RATE = 3e-3
# Moving averages of the radii over fresh points remember about twenty steps.
MEMORY = 0.95
_NUM_SAMPLES, _NUM_TIMES = 2, 6
# Steps shrink in proportion to the error once it is this many tolerances, down to a share of their size.
_NEAR, _SMALLEST_SHARE = 4.0, 0.05
# After fresh points have disagreed with the averages, these are given so many steps.
_REST = 10


class Optimizer(Protocol):
    """What is used of a torch optimiser."""

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...

    def step(self) -> Any: ...

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any) -> Any: ...


MakeOptimizer = Callable[[Sequence[Tensor]], Optimizer]


def adam(values: Sequence[Tensor]) -> Optimizer:
    """The standard optimiser."""
    return torch.optim.Adam(list(values), lr=LEARNING_RATE)


class Averages:
    """Exponential moving averages of the radii over fresh points, without the bias of their start."""

    def __init__(self, memory: float = MEMORY) -> None:
        self.memory = memory
        self.sums: dict[Edge, float] = {}
        self.weights: dict[Edge, float] = {}

    def add(self, readings: Sequence[Reading]) -> None:
        """Take in readings of one step."""
        for reading in readings:
            self.sums[reading.edge] = self.memory * self.sums.get(reading.edge, 0.0) + reading.mean
            self.weights[reading.edge] = self.memory * self.weights.get(reading.edge, 0.0) + 1.0

    def radii(self) -> dict[Edge, float]:
        """The averages."""
        return {edge: value / self.weights[edge] for edge, value in self.sums.items()}

    def largest_error(self, targets: Mapping[Edge, float]) -> float:
        """The largest distance of an average from its target."""
        return max((abs(value - targets[edge]) for edge, value in self.radii().items()), default=0.0)


class Descent:
    """Steps down the loss; what a method adds to that is in its subclass.

    Args:
        problem: what to fit.
        values: of the weights, at first.
        make_optimizer: of the values.
    """

    def __init__(
        self, problem: Problem, values: Sequence[Tensor], make_optimizer: MakeOptimizer = adam
    ) -> None:
        self.problem = problem
        self.values = [value.detach().clone().requires_grad_(True) for value in values]
        self.optimizer = make_optimizer(self.values)
        self.averages = Averages()
        self.history: list[Progress] = []
        self.iterations = 0
        self.last_good = self._copy()
        self._best, self._next_look = math.inf, 0
        self._best_values = self._copy()
        self._start = time.perf_counter()

    def fit(
        self,
        max_iterations: int,
        report: Report = lambda progress: None,
        keep: Keep | None = None,
        resumed: State | None = None,
    ) -> Fit:
        """Run until the averages are within tolerance and fresh points agree."""
        if resumed is not None:
            self.restore(resumed)
        try:
            while self.iterations < max_iterations:
                readings = self.step()
                report(self.history[-1])
                if self.iterations >= self._next_look and self.is_settled(readings):
                    if self.is_confirmed():
                        return self.result("every radius is at its target", True)
                    self._next_look = self.iterations + _REST
                if keep is not None:
                    keep(self.state())
        except NotFiniteError as error:
            if not self.history:
                raise
            return self.result(f"stopped at the last good weights: {error.what}, {error.where}", False)
        return self.result(f"the {max_iterations} iterations given are used up", False)

    def step(self) -> list[Reading]:
        """One reading, one step of the optimiser."""
        problem = self.problem
        seed = problem.seed_of(self.iterations, 0)
        readings = problem.read(self.values, _NUM_SAMPLES, _NUM_TIMES, seed)
        self._note(readings)
        self._set_gradients(readings)
        self.pace()
        self.optimizer.step()
        self.adjust(readings)
        return readings

    def pace(self) -> None:
        """Smaller steps near the targets, where the readings' noise would drive them."""
        share = self.averages.largest_error(self.problem.targets) / (_NEAR * self.problem.tolerance)
        for group in self.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, max(_SMALLEST_SHARE, share))

    def adjust(self, readings: Sequence[Reading]) -> None:
        """What a method does to the weights after the optimiser's step."""

    def is_settled(self, readings: Sequence[Reading]) -> bool:
        """Whether the moving averages say that the fit may be done."""
        return self.averages.largest_error(self.problem.targets) <= 0.75 * self.problem.tolerance

    def is_confirmed(self) -> bool:
        """Whether fresh points agree."""
        problem = self.problem
        chosen = problem.estimate(self.values, problem.seed_of(self.iterations, 1), problem.tolerance / 3)
        return all(problem.agrees(reading) for reading in chosen.values())

    def _note(self, readings: Sequence[Reading]) -> None:
        self.last_good = self._copy()
        self.averages.add(readings)
        self.iterations += 1
        error = self.averages.largest_error(self.problem.targets)
        if error < self._best:
            self._best, self._best_values = error, self.last_good
        seconds = time.perf_counter() - self._start
        self.history.append(Progress(self.iterations, self.averages.radii(), error, seconds))

    def _set_gradients(self, readings: Sequence[Reading]) -> None:
        targets = self.problem.targets
        terms = [
            2 * (r.mean - targets[r.edge]) / len(readings) * r.derivative
            for r in readings
            if r.derivative is not None and r.derivative.requires_grad
        ]
        gradients: Sequence[Tensor | None] = [None] * len(self.values)
        if terms:
            gradients = torch.autograd.grad(torch.stack(terms).sum(), self.values, allow_unused=True)
        for value, gradient in zip(self.values, gradients, strict=True):
            value.grad = total(torch.zeros_like(value) if gradient is None else gradient)
            if not bool(value.grad.isfinite().all()):
                raise NotFiniteError("A gradient of the loss is not finite", where="the trained weights")

    def _copy(self) -> list[Tensor]:
        return [value.detach().clone() for value in self.values]

    def state(self) -> State:
        """What is needed to go on from here after an interruption, as if there had been none."""
        return {
            "values": self._copy(),
            "optimizer": self.optimizer.state_dict(),
            "averages": (self.averages.sums, self.averages.weights),
            "iterations": self.iterations,
            "best": (self._best, self._best_values, self._next_look),
            "seconds": time.perf_counter() - self._start,
        }

    def restore(self, state: State) -> None:
        """Go on from a state."""
        with torch.no_grad():
            for value, kept in zip(self.values, state["values"], strict=True):
                value.copy_(kept)
        self.optimizer.load_state_dict(state["optimizer"])
        self.averages.sums, self.averages.weights = map(dict, state["averages"])
        self.iterations = state["iterations"]
        self._best, self._best_values, self._next_look = state["best"]
        self._start = time.perf_counter() - state["seconds"]

    def result(self, stop_reason: str, is_reached: bool) -> Fit:
        """The outcome as it stands."""
        return Fit(
            values=self._copy() if is_reached else self._best_values,
            iterations=self.iterations,
            is_reached=is_reached,
            seconds=time.perf_counter() - self._start,
            stop_reason=stop_reason,
            history=self.history,
        )
