"""What a fit is given: weights, targets, fresh points; every method reads radii through it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lsc_graph.pretraining.estimate import FIRST_TIMES, estimate, joined_readings, work_of
from lsc_graph.pretraining.reading import Edge, Reading
from lsc_graph.pretraining.readings import Reader
from lsc_graph.pretraining.shards import gathered, own_share
from lsc_graph.pretraining.trainable import Weight, by_name
from lsc_graph.running.sampling import Sample

# Operations on spectra that an iteration may cost, and so many times more within so many tolerances.
_MOST_WORK = 3e9
_MORE_WORK, _CLOSE = 2, 2
# Derivatives' points are doubled so many times less than those of the radii, and so often at most.
_BEHIND, _MOST_DERIVATIVES, _FEWER_DERIVATIVES = 4, 2, 1
# So many doublings need no reason but noise where they cost no more operations, or samples have few steps.
_FREE_DOUBLINGS, _FREE_WORK = 3, 2e7
# A mean within so many standard errors of the tolerance's edge is to be known to this part of the tolerance.
_CLEAR, _SHARP = 2, 6
# Of a noise that few points say is less by this factor than what is allowed, they need not be believed more.
_NOTHING = 3
# A confirmation ends at a mean that is off by so many standard errors more, known from so many samples; by
# more of them where fewer samples tell.
_SURELY, _MANY_SAMPLES, _LEAST_SAMPLES = 3, 32, 8
Draw = Callable[[int, int], Sequence[Sample]]
Say = Callable[[str], None]


def silent(stage: str) -> None:
    """Where nobody wants to know what is being done."""


@dataclass(frozen=True)
class Effort:
    """How many points an iteration looks at: samples, steps of each, and how often both may double.

    Derivatives come from the first few points alone: they need not be sharp, and cost several times as much.
    `most_times` is how many steps a sample has.
    """

    num_samples: int = 2
    num_times: int = 4
    max_doublings: int = 10
    most_times: int = 2**30

    def at(self, doublings: int) -> tuple[int, int]:
        """Samples and steps after that many doublings: samples first, then each in turn as far as it goes."""
        times = [min(self.num_times * 2**number, self.most_times) for number in (0, doublings // 2)]
        return self.num_samples * 2**doublings * times[0] // times[1], times[1]

    def of_derivatives(
        self, doublings: int, *, is_quiet: bool = False, is_predictable: bool = False
    ) -> tuple[int, int]:
        """Points for derivatives where radii get so many doublings: noisy radii have noisy derivatives.

        Fewer ones do where radii hardly scatter, and where steps do what derivatives say.
        """
        if is_quiet and not doublings:
            return self.num_samples, max(1, self.num_times // 2)
        most = _FEWER_DERIVATIVES if is_predictable else _MOST_DERIVATIVES
        return self.at(min(max(0, doublings - _BEHIND), most))


@dataclass(frozen=True)
class Problem:
    """The radii of one model as functions of its weights.

    Args:
        reader: takes readings.
        weights: what is trained.
        targets: by edge; edges without one are left alone.
        draw: fresh samples, by seed and number.
        tolerance: how far a radius may be from its target.
        seed: of points and samples.
        effort: points per iteration.
        say: called with what is being done, where that may take longer than an iteration.
        has_surrogate: whether surrogates stand in for derivatives of thresholds.
    """

    reader: Reader
    weights: Sequence[Weight]
    targets: Mapping[Edge, float]
    draw: Draw
    tolerance: float
    seed: int
    effort: Effort = Effort()
    say: Say = silent
    has_surrogate: bool = False

    @property
    def widths(self) -> set[int]:
        """Sizes of the states."""
        layers = self.reader.layers.values()
        return {size for layer in layers for state in layer.states for size in state.shape[-1:]}

    def read(
        self,
        values: Sequence[Tensor],
        num_samples: int,
        num_times: int,
        seed: int,
        *,
        with_derivative: bool = True,
        through_time: bool = True,
        only: Collection[Edge] | None = None,
    ) -> list[Reading]:
        """Readings at the points of a seed, shared out to all processes; see `Reader.read`."""
        samples = list(enumerate(self.draw(seed, num_samples)))
        named = by_name(self.weights, values)
        readings = self.reader.read(
            named,
            own_share(samples),
            num_times,
            seed,
            with_derivative=with_derivative,
            through_time=through_time,
            only=only,
        )
        return [reading for reading in gathered(readings) if reading.edge in self.targets]

    def sharpened(
        self, readings: Sequence[Reading], values: Sequence[Tensor], doublings: Mapping[Edge, int], seed: int
    ) -> list[Reading]:
        """Readings joined with others without derivatives: of the edges of `doublings`, at as many points."""
        groups: defaultdict[int, list[Edge]] = defaultdict(list)
        for reading in readings:
            if reading.edge in doublings:
                groups[doublings[reading.edge]].append(reading.edge)
        found: dict[Edge, Reading] = {}
        for count in sorted(groups):
            points = self.effort.at(count)
            more = self.read(values, *points, seed + count, with_derivative=False, only=groups[count])
            found |= {reading.edge: reading for reading in more}
        return [
            replace(joined_readings([r, found[r.edge]]), derivative=r.derivative) if r.edge in found else r
            for r in readings
        ]

    def estimate(
        self,
        values: Sequence[Tensor],
        seed: int,
        max_std_error: float,
        only: Collection[Edge] | None = None,
        *,
        until_off: bool = False,
    ) -> dict[Edge, Reading]:
        """Readings at fresh points, with means as sharp as asked for if the most points allow it.

        A mean at the edge of the tolerance is made sharper: chance must not say on which side it is.
        With `until_off` a mean that is surely not at its target ends it, and one that seems so once all are
        as sharp as asked for.
        """

        def is_sharp(reading: Reading) -> bool:
            allowed = (
                max_std_error if self._is_clear(reading) else min(max_std_error, self.tolerance / _SHARP)
            )
            return reading.std_error <= allowed

        def is_over(readings: Sequence[Reading]) -> bool:
            own = [reading for reading in readings if until_off and reading.edge in self.targets]
            is_rough = any(reading.std_error > max_std_error for reading in own)
            return any(map(self.is_surely_off, own)) or (not is_rough and any(map(self._is_off, own)))

        num_times = 1 if until_off else FIRST_TIMES
        return self._estimate(values, seed, is_sharp, is_over, only, num_times=num_times)

    def look(self, values: Sequence[Tensor], seed: int, max_std_error: float) -> dict[Edge, Reading]:
        """Readings at fresh points that earlier ones are to be joined with, until one is surely off.

        What few points say of their own noise is not relied on, unless that is next to nothing.
        """

        def is_sharp(reading: Reading) -> bool:
            is_many = len(reading.sizes) >= _MANY_SAMPLES
            return reading.std_error <= (max_std_error if is_many else max_std_error / _NOTHING)

        def is_over(readings: Sequence[Reading]) -> bool:
            return any(self.is_surely_off(reading) for reading in readings if reading.edge in self.targets)

        return self._estimate(values, seed, is_sharp, is_over, num_times=1)

    def _estimate(
        self,
        values: Sequence[Tensor],
        seed: int,
        is_sharp: Callable[[Reading], bool],
        is_over: Callable[[Sequence[Reading]], bool],
        only: Collection[Edge] | None = None,
        *,
        num_times: int,
    ) -> dict[Edge, Reading]:
        def draw(seed: int, count: int) -> Sequence[Sample]:
            self.say(f"Looking at {count} fresh samples")
            return self.draw(seed, count)

        named = by_name(self.weights, values)
        readings = estimate(self.reader, named, draw, seed, is_sharp, is_over, only, num_times=num_times)
        return {reading.edge: reading for reading in readings if reading.edge in self.targets}

    def _is_clear(self, reading: Reading) -> bool:
        """Whether a mean is within or without the tolerance whatever its noise."""
        if reading.edge not in self.targets:
            return True
        error = abs(reading.mean - self.targets[reading.edge])
        return abs(error - self.tolerance) > _CLEAR * reading.std_error

    def is_surely_off(self, reading: Reading) -> bool:
        """Whether a mean is off by far more than its noise: of many radii some seem so by chance."""
        off, count = abs(reading.mean - self.targets[reading.edge]) - self.tolerance, len(reading.sizes)
        surely = _SURELY * math.sqrt(max(1.0, _MANY_SAMPLES / max(count, 1)))
        return count >= _LEAST_SAMPLES and off > surely * reading.std_error

    def _is_off(self, reading: Reading) -> bool:
        return abs(reading.mean - self.targets[reading.edge]) > self.tolerance

    def can_afford(self, doublings: Mapping[Edge, int], largest_error: float) -> bool:
        """Whether an iteration may look at as many points of each edge as after so many doublings.

        Near the targets more is worth it: a few sharp readings lead further than many noisy ones.
        """
        is_close = largest_error <= _CLOSE * self.tolerance
        most = _MOST_WORK * (_MORE_WORK if is_close else 1)
        work = sum(work_of(self.reader, *self.effort.at(count), (edge,)) for edge, count in doublings.items())
        return max(doublings.values()) <= self.effort.max_doublings and work <= most

    def is_free(self, doublings: Mapping[Edge, int]) -> bool:
        """Whether so many points of each edge cost next to nothing, or no more than others give by steps.

        By the sizes of spectra alone: how few rows suffice is learned on the way, and no checkpoint has it.
        """
        has_few, sizes = self.effort.most_times < self.effort.num_times, self.reader.blocks.sizes
        work = sum(math.prod(self.effort.at(n)) * sizes.get(edge, 0) ** 3 for edge, n in doublings.items())
        return max(doublings.values()) <= _FREE_DOUBLINGS and (has_few or work <= _FREE_WORK)

    def is_sure(self, reading: Reading) -> bool:
        """Whether a mean is within tolerance of its target beyond its standard error."""
        return abs(reading.mean - self.targets[reading.edge]) + reading.std_error <= self.tolerance

    def agrees(self, reading: Reading) -> bool:
        """Whether a reading is surely within tolerance, or within it and no more points can be afforded.

        One that is known to less than the tolerance says nothing.
        """
        is_within = abs(reading.mean - self.targets[reading.edge]) <= self.tolerance
        is_blurred = self.tolerance / 3 < reading.std_error <= self.tolerance
        return self.is_sure(reading) or (is_within and is_blurred)

    def is_as_near_as_known(self, reading: Reading) -> bool:
        """Whether a mean is surely within tolerance, or as near as one that cannot be sharper tells."""
        error = abs(reading.mean - self.targets[reading.edge])
        is_blurred = reading.std_error > self.tolerance / _SHARP
        return self.is_sure(reading) or (is_blurred and error <= max(self.tolerance, 2 * reading.std_error))

    def is_reached(self, reading: Reading) -> bool:
        """Whether a mean is known to be at its target: one that is hardly known is near to everything."""
        error = abs(reading.mean - self.targets[reading.edge])
        return error <= self.tolerance + 2 * reading.std_error and reading.std_error <= self.tolerance

    def seed_of(self, iteration: int, purpose: int) -> int:
        """A seed of its own for every iteration and purpose."""
        return (self.seed * 1_000_003 + 2 * iteration + purpose) % 2**31

    def in_order(self, of_edge: Mapping[Edge, float], edges: Sequence[Edge]) -> Tensor:
        """Numbers of some edges as a vector."""
        return torch.tensor([of_edge[edge] for edge in edges], dtype=torch.float64)
