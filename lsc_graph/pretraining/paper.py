"""The paper's own procedure, for comparison: AdaBelief with Lookahead, clipped multipliers, shuffles.

L. Herranz-Celotti and J. Rouat, "Stabilizing RNN Gradients through Pre-training" (arXiv 2308.12075), with the
settings of their published code (github.com/LuCeHe/stable_drnn, `apply_LSC`). After each optimiser step
every weight is multiplied by clip(target / radius, 0.85, 1.15), and after a third of the steps the entries of
each matrix are shuffled. Their code knows by name which weights, vectors of decays and thresholds among them,
set which radius; here a weight belongs to the radius that scaling it up raises most.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lsc_graph.errors import UsageError
from lsc_graph.pretraining.gradient import Descent, Optimizer, State
from lsc_graph.pretraining.problem import Problem
from lsc_graph.pretraining.reading import Edge, Reading
from lsc_graph.pretraining.shards import total
from lsc_graph.pretraining.slopes import UNMOVED

LEARNING_RATE = 7.2e-3
LOOKAHEAD_STEPS, LOOKAHEAD_SHARE = 6, 0.5
SMALLEST, LARGEST = 0.85, 1.15
SHUFFLE_PROBABILITY = 0.34
# A recurrent fit stops after so many steps with all radii this near to their targets.
STEPS_WITHIN, WITHIN = 20, 0.08


def adabelief_with_lookahead(values: Sequence[Tensor]) -> Optimizer:
    """The paper's optimiser, from the package pytorch_optimizer.

    Raises:
        UsageError: the package is not installed.
    """
    try:
        from pytorch_optimizer import AdaBelief, Lookahead
    except ImportError as error:
        raise UsageError(
            "The paper's method needs the package pytorch_optimizer",
            do="pip install 'lsc-graph[paper]'",
        ) from error
    made: Optimizer = Lookahead(
        AdaBelief(list(values), lr=LEARNING_RATE), k=LOOKAHEAD_STEPS, alpha=LOOKAHEAD_SHARE
    )
    return made


class PaperDescent(Descent):
    """The paper's procedure with its own stopping rule."""

    def __init__(self, problem: Problem, values: Sequence[Tensor]) -> None:
        super().__init__(problem, values, adabelief_with_lookahead)
        layers = problem.reader.layers.values()
        self._is_recurrent = any(layer.time_step for layer in layers)
        self._steps_within = 0
        self._owners: dict[int, Edge] = {}

    def step(self) -> list[Reading]:
        """One reading, one step of the optimiser, multipliers and shuffles; owners are found at the first."""
        if not self._owners:
            seed = self.problem.seed_of(0, 0)
            self._owners = owners_of(self.values, self.problem.read(self.values, 2, 6, seed))
        return super().step()

    def pace(self) -> None:
        """The paper's learning rate stays what it is."""

    def state(self) -> State:
        """What `Descent` keeps, and the paper's own."""
        return super().state() | {"owners": self._owners, "steps_within": self._steps_within}

    def restore(self, state: State) -> None:
        """Go on from a state."""
        super().restore(state)
        self._owners, self._steps_within = dict(state["owners"]), state["steps_within"]

    def adjust(self, readings: Sequence[Reading]) -> None:
        """Multiply every weight by its clipped ratio; now and then shuffle all matrices."""
        means = {reading.edge: reading.mean for reading in readings}
        generator = torch.Generator().manual_seed(self.problem.seed_of(self.iterations, 0))
        is_shuffled = float(torch.rand((), generator=generator)) < SHUFFLE_PROBABILITY
        with torch.no_grad():
            for index, edge in self._owners.items():
                if edge not in means:
                    continue
                value, ratio = self.values[index], self.problem.targets[edge] / max(means[edge], 1e-12)
                value *= min(max(ratio, SMALLEST), LARGEST)
                if is_shuffled and value.ndim > 1:
                    order = torch.randperm(value.numel(), generator=generator).to(value.device)
                    value.copy_(value.flatten()[order].reshape(value.shape))

    def is_settled(self, readings: Sequence[Reading]) -> bool:
        """The paper's rule: 20 steps within 0.08 (recurrent), or moving averages within tolerance."""
        if not self._is_recurrent:
            return self.averages.largest_error(self.problem.targets) <= self.problem.tolerance
        targets = self.problem.targets
        is_within = all(abs(r.mean - targets[r.edge]) <= WITHIN for r in readings)
        self._steps_within = self._steps_within + 1 if is_within else 0
        return self._steps_within >= STEPS_WITHIN

    def is_confirmed(self) -> bool:
        """The paper's rule needs no confirmation: the report says how near the radii really are."""
        return True


def owners_of(values: Sequence[Tensor], readings: Sequence[Reading]) -> dict[int, Edge]:
    """Which radius each weight belongs to: the one whose logarithm scaling the weight up raises most.

    A weight that raises none, as a gate's that closes it may, belongs to none: more of it is no remedy.
    """
    best: dict[int, tuple[float, Edge]] = {}
    for reading in readings:
        gradients: Sequence[Tensor | None] = [None] * len(values)
        if reading.derivative is not None and reading.derivative.requires_grad:
            gradients = torch.autograd.grad(
                reading.derivative, list(values), retain_graph=True, allow_unused=True
            )
        for index, (value, gradient) in enumerate(zip(values, gradients, strict=True)):
            change = torch.zeros((), device=value.device) if gradient is None else (gradient * value).sum()
            size = float(total(change.detach())) / max(reading.mean, 1e-12)
            if size > best.get(index, (UNMOVED, reading.edge))[0]:
                best[index] = (size, reading.edge)
    return {index: edge for index, (_, edge) in best.items()}
