"""What is kept of local Jacobians: radii, gains and norms, read of so many matrices at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lsc_graph.jacobians.entries import pulled_blocks
from lsc_graph.jacobians.radius import gain, spectral_norm
from lsc_graph.spectra.choose import radius_estimate
from lsc_graph.spectra.estimate import ESTIMATED, Estimate, Method
from lsc_graph.spectra.perturbed import radius_bars

# Elements of matrices, or of cotangents for them, that are looked at together.
MAX_ELEMENTS = 2**22
PullAt = Callable[[Sequence[int], Tensor], Tensor]


@dataclass(frozen=True)
class Reading:
    """Of P matrices: gains and norms [P] in float64, and which are exactly the identity, on the CPU.

    `estimate` is None where they are not square, `norm` where it was not asked for. `bars` are how far the
    radii may be off, where the matrices are known within error bars alone.
    """

    gain: Tensor
    held: Tensor
    is_nonzero: bool
    estimate: Estimate | None
    norm: Tensor | None
    bars: Tensor | None = None

    def at(self, points: Tensor) -> Reading:
        """At some of the points, by their numbers."""
        return Reading(
            self.gain[points],
            self.held[points],
            self.is_nonzero,
            None if self.estimate is None else self.estimate.at(points),
            None if self.norm is None else self.norm[points],
            None if self.bars is None else self.bars[points],
        )


def read(
    matrices: Tensor, method: Method, *, with_norm: bool = False, changed: Tensor | None = None
) -> Reading:
    """A reading of matrices [P, n_out, n_in]; only the estimator of radii sees many at once.

    Args:
        matrices, method: which, and how.
        with_norm: whether to find spectral norms.
        changed: the same, changed by as much as their error bars allow, where they have any.
    """
    estimate = radius_estimate(matrices, method) if matrices.shape[-1] == matrices.shape[-2] else None
    bars = None if estimate is None or changed is None else radius_bars(matrices, changed - matrices)
    estimate = estimate if estimate is None or bars is None else estimate.known_within(bars)
    parts = list(in_portions(matrices))
    gains, held = (torch.cat([of(own) for own in parts]).double() for of in (gain, is_identity))
    # Together, so that the host waits for the device once.
    gains, held, nonzero = torch.stack([gains, held, matrices.any().double().expand_as(gains)]).cpu()
    return Reading(
        gains,
        held.bool(),
        bool(nonzero.any()),
        estimate,
        torch.cat([spectral_norm(own) for own in parts]) if with_norm else None,
        bars,
    )


def in_portions(matrices: Tensor) -> tuple[Tensor, ...]:
    """Matrices [P, ...] in groups that are looked at together."""
    found: tuple[Tensor, ...] = torch.split(matrices, max(1, MAX_ELEMENTS // max(1, matrices[:1].numel())))
    return found


def read_entries(
    pull: PullAt,
    like: Tensor,
    numbers: Sequence[int],
    rows: Tensor,
    columns: Tensor,
    method: Method,
    *,
    with_norm: bool = False,
) -> list[Reading] | None:
    """Readings of the blocks of each entry of a batch, of which never more are there than a few points'.

    Args:
        pull: cotangents [P, K, n_out] at the points of given numbers to [P, K, n_in].
        like: of their type, where they are.
        numbers: of the points.
        rows, columns: where the elements of each entry lie [B, m].
        method, with_norm: as of `read`.

    Returns:
        One reading of all points for each entry; None if entries meet.
    """
    whole: _Series | None = None
    for own in _portions(numbers, rows.shape[1] * int(rows.numel())):
        blocks = pulled_blocks(partial(pull, own), like, len(own), rows, columns)
        if blocks is None:
            return None
        part = read(blocks.flatten(0, 1), method, with_norm=with_norm)
        whole = whole or _Series(len(numbers) * len(rows))
        whole.append(part)
    if whole is None:
        return None
    by_entry = torch.arange(len(numbers) * len(rows)).reshape(len(numbers), -1).T
    reading = whole.reading()
    return [reading.at(points) for points in by_entry]


class _Series:
    """Readings of several batches, in places made before these.

    Small results that are kept among large matrices would break up the heap.
    """

    def __init__(self, num_points: int) -> None:
        self._columns: dict[str, Tensor] = {}
        self._methods: list[Method] = []
        self._num_points, self._end, self._is_nonzero = num_points, 0, False

    def append(self, part: Reading) -> None:
        start, self._end = self._end, self._end + len(part.gain)
        for name, values in _columns(part).items():
            if name not in self._columns:
                self._columns[name] = values.new_empty(self._num_points)
            self._columns[name][start : self._end] = values
        self._methods += part.estimate.methods if part.estimate is not None else ()
        self._is_nonzero |= part.is_nonzero

    def reading(self) -> Reading:
        own = self._columns
        estimate = None
        if self._methods:
            fields = {name: own[name] for name in ESTIMATED}
            estimate = Estimate(methods=tuple(self._methods), **fields)
        return Reading(own["gain"], own["held"], self._is_nonzero, estimate, own.get("norm"))


def _columns(reading: Reading) -> dict[str, Tensor]:
    """Everything that a reading has of each point."""
    found = {"gain": reading.gain, "held": reading.held}
    if reading.norm is not None:
        found["norm"] = reading.norm
    if reading.estimate is not None:
        found |= {name: getattr(reading.estimate, name) for name in ESTIMATED}
    return found


def _portions(numbers: Sequence[int], elements: int) -> Iterator[Sequence[int]]:
    step = max(1, MAX_ELEMENTS // max(1, elements))
    return (numbers[start : start + step] for start in range(0, len(numbers), step))


def is_identity(matrices: Tensor) -> Tensor:
    """Which of the matrices [P, n_out, n_in] are exactly the identity; none, if they are not square."""
    if matrices.shape[-1] != matrices.shape[-2]:
        return torch.zeros(len(matrices), dtype=torch.bool, device=matrices.device)
    one = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    return (matrices == one).flatten(-2).all(-1)
