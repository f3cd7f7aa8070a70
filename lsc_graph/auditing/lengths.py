"""Samples on which loops that the data may end run for as many steps as the recurrences were found with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from lsc_graph.errors import AnalysisError
from lsc_graph.prepare import Prepared, is_streaming
from lsc_graph.recurrence.loops.rewrite import TripCount
from lsc_graph.running.sampling import Sample

MAX_DRAWN = 16
"""As many samples are drawn for each one that is wanted."""

Draw = Callable[[int, int], Sequence[Sample]]
"""Samples by the number of the first one, and how many."""


class FittingSamples:
    """Draws samples, and leaves out those on which a loop runs for another number of steps.

    Networks of different lengths are different networks: one audit looks at one of them.

    Args:
        prepared: the model.
        draw: where samples come from.
        limit: how many there are; None if there is no end.
    """

    def __init__(self, prepared: Prepared, draw: Draw, limit: int | None) -> None:
        self._prepared, self._draw, self._limit = prepared, draw, limit
        self._counts = () if is_streaming(prepared) else prepared.findings.counts
        self._drawn = 0
        self._left_out: Counter[tuple[str, int | None]] = Counter()

    def next(self, wanted: int) -> tuple[Sample, ...]:
        """Samples that were not drawn before; fewer than `wanted` where there are no more."""
        found: list[Sample] = []
        last = self._drawn + wanted * (MAX_DRAWN if self._counts else 1)
        if self._counts and self._limit is not None:
            last = min(last, self._limit)
        while len(found) < wanted and self._drawn < last:
            count = min(wanted - len(found), last - self._drawn)
            found += [sample for sample in self._draw(self._drawn, count) if self._fits(sample)]
            self._drawn += count
        return tuple(found)

    def _fits(self, sample: Sample) -> bool:
        for count in self._counts:
            steps = self._steps(count, sample)
            if steps != count.num_steps:
                self._left_out[count.loop, steps] += 1
                return False
        return True

    def _steps(self, count: TripCount, sample: Sample) -> int | None:
        try:
            return count.on(sample.inputs | sample.initial | self._prepared.plan.constants)
        except AnalysisError:
            return None  # what one loop hands to the next has another shape than it was found with

    @property
    def warnings(self) -> tuple[str, ...]:
        """How many samples were left out, and why."""
        expected = {count.loop: count.num_steps for count in self._counts}
        words = []
        for loop, steps in expected.items():
            others = {own: n for (name, own), n in self._left_out.items() if name == loop}
            if others:
                shown = ", ".join(str(own) for own in sorted(own for own in others if own is not None))
                words.append(
                    f"{sum(others.values())} of {self._drawn} samples were left out: {loop} does not run for "
                    f"{steps} steps on them" + (f" ({shown})" if shown else "")
                )
        return tuple(words)
