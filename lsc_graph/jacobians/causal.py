"""Blocks that map a sequence to a sequence causally without a cell: convolutions, attention, parallel scans.

Their Jacobian in time is taken in pieces d y[t] / d x[t']: equal times for depth, neighbouring times for
time, as the code of the paper (arXiv 2308.12075) does for its parallel Linear Recurrent Unit.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lsc_graph.jacobians.chain import ChainBlock
from lsc_graph.jacobians.radius import gain, spectral_radius
from lsc_graph.jacobians.statistics import statistics_of_series
from lsc_graph.results import Statistics, TimeParallel
from lsc_graph.wording import few

MIN_STEPS = 3
MAX_TIMES = 16
MAX_STEP_SIZE = 512
NUM_PROBES = 16
_MAX_NAMES = 6
_NOTHING = 1e-12
_WAYS = ((False, False), (True, True), (True, False), (False, True))
# Fourier transforms and stabilisers that read the whole sequence leave rounding where there is no derivative.
_ROUNDING, _ABOVE_ROUNDING = 1e-5, 10.0


@dataclass(frozen=True)
class TimeAxes:
    """Which axis of a block's input and output is time, of `num_steps` steps.

    Time may run backwards in what the block reads (`flips_in`), and in what it puts out: in both for a layer
    that reads its sequence from the end.
    """

    axis_in: int
    axis_out: int
    num_steps: int
    flips_in: bool = False
    flips_out: bool = False


@dataclass(frozen=True)
class CausalBlock:
    """The pieces of one block's Jacobian.

    `equal` are d y[t] / d x[t], `neighbour` d y[t] / d x[t-1], each [P, n_out, n_in] over some times t;
    `reach` is the largest t - t' for which d y[t] / d x[t'] is not zero.
    """

    source: str
    target: str
    axes: TimeAxes
    equal: Tensor
    neighbour: Tensor
    reach: int
    is_probed: bool = False


def candidate_axes(
    shape_in: Sequence[int], shape_out: Sequence[int], wanted: int | None = None
) -> list[TimeAxes]:
    """Pairs of axes of equal size that could be time; `wanted` fixes the output's axis."""
    return [
        TimeAxes(i, o, size)
        for (i, size), (o, other) in itertools.product(enumerate(shape_in), enumerate(shape_out))
        if size == other >= MIN_STEPS and wanted in (None, o, o - len(shape_out))
    ]


def causal_axes(
    block: ChainBlock,
    shape_in: Sequence[int],
    shape_out: Sequence[int],
    generator: torch.Generator,
    wanted: int | None = None,
) -> list[TimeAxes]:
    """The pairs of axes along which a block is causal and mixes times: found by one-time cotangents.

    A block is causal along them if y[t] depends on no x[t'] with t' > t, and on some with t' < t; where one
    of them, or both, run backwards, this is said of the flipped ones.
    """
    found = []
    for axes in candidate_axes(shape_in, shape_out, wanted):
        sizes = _sizes(block, axes, shape_in, shape_out, generator)
        ways = [replace(axes, flips_in=own, flips_out=other) for own, other in _WAYS]
        found += [way for way in ways if _is_causal(_touched(sizes, way))][:1]
    forward = [axes for axes in found if not (axes.flips_in or axes.flips_out)]
    return forward or found


def _times(num_steps: int) -> list[int]:
    """Up to MAX_TIMES times, the first, second and last among them."""
    if num_steps <= MAX_TIMES:
        return list(range(num_steps))
    spread = torch.linspace(1, num_steps - 1, MAX_TIMES - 1).round().int().tolist()
    return [0, *dict.fromkeys(spread)]


def _sizes(
    block: ChainBlock,
    axes: TimeAxes,
    shape_in: Sequence[int],
    shape_out: Sequence[int],
    generator: torch.Generator,
) -> dict[int, Tensor]:
    """How large the gradient of some output times is at each input time [T], nothing flipped."""
    times = _times(axes.num_steps)
    times = sorted({*times, *(axes.num_steps - 1 - time for time in times)})
    cotangents = torch.zeros(len(times), *shape_out, dtype=torch.float64)
    for row, time in enumerate(times):
        piece = cotangents[row].select(axes.axis_out, time)
        piece.copy_(torch.randn(piece.shape, generator=generator, dtype=torch.float64))
    pulled = block.pull(cotangents.flatten(1)).reshape(len(times), *shape_in).cpu()
    return dict(zip(times, pulled.movedim(axes.axis_in + 1, 1).flatten(2).abs().amax(2), strict=True))


def _touched(sizes: Mapping[int, Tensor], axes: TimeAxes) -> list[tuple[int, Tensor]]:
    """For some output times: which input times their gradient reaches [T], as booleans."""
    end = axes.num_steps - 1
    turned = {end - time if axes.flips_out else time: own for time, own in sizes.items()}
    times = sorted(turned)
    rows = torch.stack([turned[time].flip(0) if axes.flips_in else turned[time] for time in times])
    floors = _floors(rows, times)
    return [(time, rows[row] > floors[row]) for row, time in enumerate(times)]


def _floors(sizes: Tensor, times: Sequence[int]) -> list[float]:
    """Below which sizes a gradient counts as none, for each of some output times.

    Args:
        sizes: of the gradients of the output times with respect to each input time [K, T].
        times: the output times.
    """
    largest = [float(row.max()) for row in sizes]
    ahead = [
        float(row[time + 1 :].max()) if time + 1 < len(row) else 0.0
        for time, row in zip(times, sizes, strict=True)
    ]
    noise = max((own / most for own, most in zip(ahead, largest, strict=True) if most), default=0.0)
    above = _ABOVE_ROUNDING * noise if noise <= _ROUNDING else 0.0
    return [max(_NOTHING * (max(largest) or 1.0), above * most) for most in largest]


def _is_causal(touched: Sequence[tuple[int, Tensor]]) -> bool:
    looks_ahead = any(bool(row[time + 1 :].any()) for time, row in touched)
    mixes = any(bool(row[:time].any()) for time, row in touched)
    return mixes and not looks_ahead and all(bool(row[time]) for time, row in touched)


def causal_block(
    block: ChainBlock,
    axes: TimeAxes,
    shape_in: Sequence[int],
    shape_out: Sequence[int],
    generator: torch.Generator,
) -> CausalBlock:
    """The pieces of a causal block's Jacobian.

    Where one step has more than MAX_STEP_SIZE elements, K products v^T M / (K n_out)^(1/4) with random
    vectors stand for each piece M: they have its gain ||M||_F / (n_out n_in)^(1/4) (Hutchinson's estimator).
    """
    size = torch.zeros(*shape_out).select(axes.axis_out, 0).numel()
    equal, neighbour = [], []
    for time in _times(axes.num_steps):
        vectors = torch.eye(size, dtype=torch.float64)
        if size > MAX_STEP_SIZE:
            vectors = torch.randn(NUM_PROBES, size, generator=generator, dtype=torch.float64)
            vectors /= (NUM_PROBES * size) ** 0.25
        count = len(vectors)
        cotangents = torch.zeros(count, *shape_out, dtype=torch.float64)
        rows = cotangents.movedim(axes.axis_out + 1, 1)
        rows[:, axes.num_steps - 1 - time if axes.flips_out else time] = vectors.reshape(
            count, *rows.shape[2:]
        )
        pulled = block.pull(cotangents.flatten(1)).reshape(count, *shape_in)
        steps = pulled.movedim(axes.axis_in + 1, 1).flatten(2)
        steps = steps.flip(1) if axes.flips_in else steps
        equal.append(steps[:, time])
        if time:
            neighbour.append(steps[:, time - 1])
    touched = _touched(_sizes(block, axes, shape_in, shape_out, generator), axes)
    reach = max(time - int(row.nonzero()[0]) for time, row in touched)
    is_probed = size > MAX_STEP_SIZE
    return CausalBlock(
        block.source, block.target, axes, torch.stack(equal), torch.stack(neighbour), reach, is_probed
    )


def causal_glue(
    source: str, target: str, pairs: Sequence[tuple[int, int]], blocks: Tensor, time_step: int, num_steps: int
) -> CausalBlock | None:
    """The pieces of what lies between two recurrent layers, where that mixes times and never looks ahead.

    Args:
        source, target: ids of the layers.
        pairs: the (source, target) times of the blocks.
        blocks: [P, n_out, n_in].
        time_step: 1 or -1, the direction of both layers.
        num_steps: T.
    """
    if not is_causal_glue(pairs, time_step):
        return None
    lags = [(head - tail) * time_step for tail, head in pairs]
    equal, neighbour = (blocks[[i for i, own in enumerate(lags) if own == lag]] for lag in (0, 1))
    return CausalBlock(source, target, TimeAxes(0, 0, num_steps), equal, neighbour, max(lags))


def is_causal_glue(pairs: Sequence[tuple[int, int]], time_step: int) -> bool:
    """Whether what lies between two recurrent layers reads now and a step ago, and never ahead.

    Args:
        pairs, time_step: as of `causal_glue`.
    """
    lags = {(head - tail) * time_step for tail, head in pairs}
    return {0, 1} <= lags and min(lags) >= 0


class CausalSummary:
    """Collects the pieces of all causal blocks, sample by sample; the axes are settled at the first one.

    Args:
        time_axis: the axis of the blocks' outputs that is time, if the user has said so.
    """

    def __init__(self, time_axis: int | None = None) -> None:
        self.time_axis = time_axis
        self._warnings: list[str] = []
        self._axes: dict[tuple[str, str], TimeAxes | None] = {}
        self._pieces: defaultdict[tuple[str, str], list[_PieceValues]] = defaultdict(list)
        self._left_out: dict[str, None] = {}

    def leave_out(self, target: str) -> None:
        """A block that is causal, or may be, of which nothing will be said: the report names it."""
        self._left_out[target] = None

    def leave_out_block(
        self, target: str, shapes_in: Sequence[Sequence[int]], shape_out: Sequence[int]
    ) -> None:
        """The same, if the shapes of what the block reads and puts out have an axis that could be time."""
        if any(candidate_axes(own, shape_out, self.time_axis) for own in shapes_in):
            self.leave_out(target)

    def add(
        self, blocks: Sequence[ChainBlock], shapes: Sequence[Sequence[int]], generator: torch.Generator
    ) -> None:
        """One sample: block k leads from boundary k, of shape `shapes[k]`, to boundary k + 1."""
        for block, shape_in, shape_out in zip(blocks, shapes, shapes[1:], strict=False):
            ends = block.source, block.target
            if ends not in self._axes:
                self._axes[ends] = self._settle(block, shape_in, shape_out, generator)
            axes = self._axes[ends]
            if axes is None:
                continue
            self.add_piece(causal_block(block, axes, shape_in, shape_out, generator))

    def add_piece(self, piece: CausalBlock) -> None:
        """One sample of one block."""
        self._pieces[piece.source, piece.target].append(_values_of(piece))

    def _settle(
        self,
        block: ChainBlock,
        shape_in: Sequence[int],
        shape_out: Sequence[int],
        generator: torch.Generator,
    ) -> TimeAxes | None:
        found = causal_axes(block, shape_in, shape_out, generator, self.time_axis)
        if len(found) > 1:
            choices = ", ".join(f"axis {axes.axis_out}" for axes in found)
            self._warnings.append(
                f"{block.target} is causal along several axes ({choices}): choose time with --time-axis"
            )
        if len(found) == 1 and (found[0].flips_in or found[0].flips_out):
            self._warnings.append(f"{block.target} {_backwards(found[0])}")
        if len(found) == 1 and torch.zeros(*shape_out).select(found[0].axis_out, 0).numel() > MAX_STEP_SIZE:
            self._warnings.append(
                f"{block.target} is causal along axis {found[0].axis_out}, with more than {MAX_STEP_SIZE} "
                "elements a step: its Jacobian over time has gains from random products, and no radii"
            )
        return found[0] if len(found) == 1 else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the report should say of these layers besides their figures."""
        if self._left_out:
            return (*self._warnings, _left_out_words(list(self._left_out)))
        if self.time_axis is None or self._pieces:
            return tuple(self._warnings)
        unused = f"--time-axis {self.time_axis}: no layer without a cell is causal along that axis"
        return (*self._warnings, unused)

    def facts(self) -> tuple[TimeParallel, ...]:
        """What the report says of each causal block."""
        return tuple(_facts(*ends, pieces) for ends, pieces in self._pieces.items())


def _left_out_words(names: Sequence[str]) -> str:
    return (
        f"Left out of {len(names)} layer(s) that may be causal over time ({few(names, _MAX_NAMES)}), where "
        "derivatives are known by their products alone: whether they are, and their Jacobians at equal and "
        "neighbouring times"
    )


def _backwards(axes: TimeAxes) -> str:
    if axes.flips_in and axes.flips_out:
        return "reads its sequence from the end: its neighbouring time is the later one"
    return (
        "puts its sequence out in the opposite order to that in which it reads it: equal times are those "
        "of one and the same element"
    )


@dataclass(frozen=True)
class _PieceValues:
    """What is kept of one block's pieces: gains [P], and radii [P] if there are any."""

    axes: TimeAxes
    reach: int
    equal_gain: Tensor
    neighbour_gain: Tensor
    equal_radius: Tensor | None
    neighbour_radius: Tensor | None


def _values_of(piece: CausalBlock) -> _PieceValues:
    is_square = piece.equal.shape[1] == piece.equal.shape[2] and not piece.is_probed
    equal, neighbour = piece.equal, piece.neighbour
    return _PieceValues(
        piece.axes,
        piece.reach,
        gain(equal).cpu(),
        gain(neighbour).cpu(),
        spectral_radius(equal).cpu() if is_square else None,
        spectral_radius(neighbour).cpu() if is_square else None,
    )


def _facts(source: str, target: str, pieces: Sequence[_PieceValues]) -> TimeParallel:
    axes = pieces[0].axes
    equal_gain = statistics_of_series([piece.equal_gain for piece in pieces])
    neighbour_gain = statistics_of_series([piece.neighbour_gain for piece in pieces])
    assert equal_gain is not None
    assert neighbour_gain is not None
    return TimeParallel(
        layer_id=target,
        source=source,
        time_axis=axes.axis_out,
        num_steps=axes.num_steps,
        reach=max(piece.reach for piece in pieces),
        equal_radius=_statistics([piece.equal_radius for piece in pieces]),
        equal_gain=equal_gain,
        neighbour_radius=_statistics([piece.neighbour_radius for piece in pieces]),
        neighbour_gain=neighbour_gain,
    )


def _statistics(series: Sequence[Tensor | None]) -> Statistics | None:
    return statistics_of_series([values for values in series if values is not None])
