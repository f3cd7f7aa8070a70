"""Vector-Jacobian products of the torch view of a conformance case against finite differences.

Along a random direction u and for a random cotangent v, <vjp(v), u> is the derivative of <v, f(x + h u)> at
h = 0, with f run by ONNX Runtime. Central differences at several steps h have an error of their own: rounding
at small steps, curvature at large ones. The step whose neighbours agree best is taken; its error bar says how
well they agree, and how far differences to the left and to the right are apart (kinks). Where directions that
move every input do not agree, single elements are moved, which meets fewer kinks: these decide. Where no
error bar is small enough (jumps, saturation in single precision) the case is undecided, and so counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lsc_graph.running.reference import Reference

Array = np.ndarray[Any, np.dtype[Any]]

Run = Callable[[Mapping[str, Array]], dict[str, Array]]

AGREES, WRONG, UNDECIDED = "agrees", "wrong", "undecided"
NOT_COMPARED, NOT_FINITE = "not compared", "no finite derivative"
NUM_DIRECTIONS, NUM_ELEMENTS = 3, 12
OFFSET = 0.01
STEPS = tuple(2.0**-k for k in range(4, 13))
MAX_UNDECIDED, TOLERANCE = 0.1, 2e-3
EPSILON = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Comparison:
    """One directional derivative: by reverse mode, by differences, and how far the latter can be trusted."""

    reverse_mode: float
    difference: float
    error_bar: float
    scale: float

    @property
    def status(self) -> str:
        """Whether the two agree within the error bar; undecided if that is too wide to tell."""
        if not math.isfinite(self.reverse_mode):
            return NOT_FINITE
        if self.reverse_mode == self.difference == 0:
            return AGREES
        if not math.isfinite(self.error_bar) or self.error_bar > MAX_UNDECIDED * self.scale:
            return UNDECIDED
        gap = abs(self.reverse_mode - self.difference)
        return AGREES if gap <= TOLERANCE * self.scale + 4 * self.error_bar else WRONG


def judge(everywhere: Sequence[Comparison], elements: Sequence[Comparison]) -> tuple[str, str]:
    """One outcome: all directions agree, or else what the single elements that can be decided say."""
    if not everywhere:
        return NOT_COMPARED, "no float inputs or outputs"
    if all(one.status == AGREES for one in everywhere):
        return AGREES, ""
    decided = [one for one in elements if one.status in (AGREES, WRONG)]
    worst = next((one for one in decided if one.status == WRONG), None)
    if worst is None and decided:
        return AGREES, ""
    one = worst or next(one for one in everywhere if one.status != AGREES)
    text = f"{one.reverse_mode:.6g} in reverse mode, {one.difference:.6g} by differences"
    status = WRONG if worst else one.status if one.status != WRONG else UNDECIDED
    return status, f"{text} (error bar {one.error_bar:.2g})"


def check(
    feed: dict[str, torch.Tensor],
    run_view: Callable[[dict[str, torch.Tensor]], dict[str, Any]],
    reference: Reference,
    whole_feed: Mapping[str, Any],
) -> tuple[str, str]:
    """Directional derivatives of all float outputs by all float inputs, near the point that is given."""
    generator = np.random.default_rng(0)
    moving = {
        name: _near(x, generator).requires_grad_() for name, x in feed.items() if x.dtype.is_floating_point
    }
    if not moving or not all(x.numel() for x in moving.values()):
        return judge([], [])
    outputs = run_view({**feed, **moving})
    numbers = {
        name: y for name, y in outputs.items() if isinstance(y, torch.Tensor) and y.dtype.is_floating_point
    }
    if not numbers:
        return judge([], [])

    def run(changed: Mapping[str, Array]) -> dict[str, Array]:
        return reference.run({**whole_feed, **changed}, list(numbers))

    case = _Case(moving, numbers, run, generator)
    everywhere = [case.compare(case.direction()) for _ in range(NUM_DIRECTIONS)]
    is_settled = all(one.status == AGREES for one in everywhere)
    elements = [] if is_settled else [case.compare(case.element()) for _ in range(NUM_ELEMENTS)]
    return judge(everywhere, elements)


def _near(x: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Cases like to stand on kinks (0 for ReLU): a little beside them there is a derivative."""
    noise = torch.from_numpy(generator.standard_normal(tuple(x.shape))).to(x.dtype)
    return x + OFFSET * _size(x) * noise


def _size(x: torch.Tensor) -> float:
    """How far an input can be moved without leaving what it is."""
    return max(float(x.detach().abs().mean()), 1e-3)


@dataclass(frozen=True)
class _Case:
    moving: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]
    run: Run
    generator: np.random.Generator

    def direction(self) -> dict[str, Array]:
        """Every element of every input moves."""
        draw = self.generator.standard_normal
        return {name: draw(tuple(x.shape)) * _size(x) for name, x in self.moving.items()}

    def element(self) -> dict[str, Array]:
        """One element of one input moves."""
        u = {name: np.zeros(tuple(x.shape)) for name, x in self.moving.items()}
        name = str(self.generator.choice(list(u)))
        u[name].flat[self.generator.integers(u[name].size)] = _size(self.moving[name])
        return u

    def compare(self, u: dict[str, Array]) -> Comparison:
        v = {name: self.generator.standard_normal(tuple(y.shape)) for name, y in self.outputs.items()}
        terms = self._terms(u, v)
        reverse_mode = float(sum(np.sum(term) for term in terms))
        spread = float(np.sqrt(sum(np.sum(np.square(term)) for term in terms)))
        difference, error_bar = self._difference(u, v)
        return Comparison(
            reverse_mode, difference, error_bar, max(abs(reverse_mode), abs(difference), spread)
        )

    def _terms(self, u: dict[str, Array], v: dict[str, Array]) -> list[Array]:
        """vjp(v) times u, element by element, for each input."""
        total = sum((torch.from_numpy(v[name]) * y).sum() for name, y in self.outputs.items())
        inputs = list(self.moving.values())
        if not isinstance(total, torch.Tensor) or not total.requires_grad:
            return [np.zeros(1) for _ in inputs]
        gradients = torch.autograd.grad(total, inputs, retain_graph=True, allow_unused=True)
        pairs = zip(self.moving, gradients, strict=True)
        return [np.zeros(1) if g is None else g.double().numpy() * u[name] for name, g in pairs]

    def _difference(self, u: dict[str, Array], v: dict[str, Array]) -> tuple[float, float]:
        """The derivative of <v, f(x + h u)> at h = 0 by differences, and its error bar."""
        middle, rounding = self._sum(u, v, 0.0)
        found = []
        for h in STEPS:
            right, left = (self._sum(u, v, sign * h)[0] for sign in (1, -1))
            kink = abs(right - 2 * middle + left) / h
            found.append(((right - left) / (2 * h), kink, rounding / h))
        return _settled(found)

    def _sum(self, u: dict[str, Array], v: dict[str, Array], step: float) -> tuple[float, float]:
        """<v, f(x + step u)>, and how far it is off by rounding."""
        at = {name: x.detach().numpy() for name, x in self.moving.items()}
        outputs = self.run({name: (x + step * u[name]).astype(x.dtype) for name, x in at.items()})
        terms = [v[name] * outputs[name].astype(np.float64) for name in v]
        rounding = sum(float(np.sqrt(np.sum(np.square(term)))) for term in terms) * EPSILON
        return sum(float(np.sum(term)) for term in terms), rounding


def _settled(found: list[tuple[float, float, float]]) -> tuple[float, float]:
    """The difference that its neighbours confirm best, extrapolated, and its error bar.

    Without a kink, differences to the left and to the right are apart by the curvature times h, so half of
    that at half the step; what does not shrink is a kink.
    """
    best, bar = math.nan, math.inf
    for (a, kink_a, _), (b, kink_b, _), (c, kink_c, rounding) in zip(
        found, found[1:], found[2:], strict=False
    ):
        kink = max(2 * kink_c - kink_b, 2 * kink_b - kink_a, 0.0)
        here = max(abs(b - a), abs(c - b), kink) + rounding
        if here < bar:
            best, bar = b + (b - a) / 3, here
    return best, bar
