"""Samples in rounds, until the radii are known to a requested precision or the budget is spent."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

from lsc_graph.errors import UsageError
from lsc_graph.results import LayerFacts, Precision, Statistics

DEFAULT_MAX_SAMPLES = 256
DEFAULT_MAX_SECONDS = 300.0
# More than is needed by the estimate, which is itself uncertain; and no leap on a first guess.
_MARGIN, _LEAP = 1.2, 4


class Rounds:
    """Decides how many more samples to take.

    Args:
        precision: the standard error, absolute, that every layer's radii in time and depth must not exceed
            (gains where there is no radius); None: one round.
        num_samples: the first round.
        max_samples: never more than this in all.
        max_seconds: no sample after the first that would not be over by this time, as long as the longest one
            so far takes; None: no limit but for a precision, for which there are `DEFAULT_MAX_SECONDS`.
        start: when the time began, by `time.perf_counter`.

    Raises:
        UsageError: the precision is not positive, the time no number, or the budget smaller than a round.
    """

    def __init__(
        self,
        precision: float | None,
        num_samples: int,
        max_samples: int,
        max_seconds: float | None,
        start: float | None = None,
    ) -> None:
        if precision is not None and not (precision > 0 and math.isfinite(precision)):
            raise UsageError(
                "--precision must be positive", got=f"{precision:g}", expected="for example 0.01"
            )
        if precision is not None and max_samples < num_samples:
            raise UsageError("--max-samples is less than --samples", got=f"{max_samples} < {num_samples}")
        if max_seconds is not None and math.isnan(max_seconds):
            raise UsageError("--max-seconds must be a number", got=f"{max_seconds:g}")
        # One sample cannot show how samples differ.
        self.next = num_samples if precision is None else max(num_samples, min(2, max_samples))
        self._precision, self._max_samples, self._num_wanted = precision, max_samples, num_samples
        self._start = time.perf_counter() if start is None else start
        usual = None if precision is None else DEFAULT_MAX_SECONDS
        self._max_seconds = usual if max_seconds is None else max_seconds
        self.deadline = None if max_seconds is None else self._start + max_seconds
        self._began: float | None = None
        self._longest = 0.0
        self._taken = self._rounds = 0
        self._worst: tuple[str, float] = ("", 0.0)
        self._limit = ""

    def begin(self) -> bool:
        """Whether there is time for one more sample, which then begins; for the first one there always is."""
        now = time.perf_counter()
        if self._began is not None:
            self._longest = max(self._longest, now - self._began)
            if self._max_seconds is not None and now + self._longest > self._start + self._max_seconds:
                self._limit = f"{self._max_seconds:g} seconds were allowed"
                return False
        self._began = now
        return True

    def note(self, layers: Sequence[LayerFacts], num_found: int | None = None) -> None:
        """Take in what is known after a round; `next` becomes the size of the next one, 0 for none.

        Args:
            layers: what is known.
            num_found: how many samples the round had, if fewer than asked for.
        """
        found = self.next if num_found is None else num_found
        is_last = found < self.next
        self._taken, self._rounds = self._taken + found, self._rounds + 1
        self.next = 0
        if self._precision is None:
            return
        self._worst = max(standard_errors(layers), key=lambda item: item[1], default=("", 0.0))
        error = self._worst[1]
        # One sample cannot show how samples differ.
        if error <= self._precision and self._taken > 1:
            self._limit = ""
        elif self._limit:
            return
        elif is_last:
            self._limit = f"no more samples than {self._taken} were found"
        elif self._taken >= self._max_samples:
            self._limit = f"{self._max_samples} samples were allowed"
        elif self._max_seconds is not None and time.perf_counter() - self._start > self._max_seconds:
            self._limit = f"{self._max_seconds:g} seconds were allowed"
        else:
            needed = math.ceil(self._taken * min(_MARGIN * (error / self._precision) ** 2, _LEAP))
            self.next = min(max(needed, self._taken + 1), self._max_samples) - self._taken

    @property
    def warnings(self) -> tuple[str, ...]:
        """That there was no time for all samples that were asked for."""
        if self._precision is not None or not self._limit:
            return ()
        return (f"{self._taken} of {self._num_wanted} samples were measured: {self._limit}",)

    def result(self) -> Precision | None:
        """How precise the radii are now; None if no precision was asked for."""
        if self._precision is None:
            return None
        return Precision(
            requested=self._precision,
            largest_std_error=self._worst[1],
            where=self._worst[0],
            is_reached=not self._limit,
            limit=self._limit or None,
            num_samples=self._taken,
            num_rounds=self._rounds,
        )


def standard_errors(layers: Sequence[LayerFacts]) -> Iterator[tuple[str, float]]:
    """What was measured of each layer, and its standard error."""
    for layer in layers:
        yield from _error(f"{layer.id}, time", layer.time_radius or layer.time_gain)
        for edge in layer.depth_edges:
            yield from _error(f"{edge.source} -> {layer.id}, depth", edge.radius or edge.gain)


def _error(words: str, value: Statistics | None) -> Iterator[tuple[str, float]]:
    if value is not None:
        yield words, value.std_error
