"""Depth Jacobians of layers so large that they are never built: known by what they do to cotangents."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.func import vjp, vmap

from lsc_graph.errors import AnalysisError
from lsc_graph.jacobians.built import MAX_BYTES
from lsc_graph.jacobians.cell import at_points, cell_points, chosen_points, flat_from, flatten
from lsc_graph.jacobians.cell_radius import MAX_DENSE
from lsc_graph.jacobians.delayed import STATES, Rows, state_columns, through_delays
from lsc_graph.jacobians.depth import Connections, Glue, Port, by_lag, num_rows_at_once, pull_rows, time_pairs
from lsc_graph.jacobians.probed import ProbedGain, point_groups, probed_gain
from lsc_graph.layers.cells import DepthEdge, Layer, size
from lsc_graph.spectra.arnoldi import arnoldi_radius
from lsc_graph.spectra.choose import group_size, radius_estimate
from lsc_graph.spectra.estimate import Estimate
from lsc_graph.spectra.handed import handed
from lsc_graph.spectra.krylov_powers import MAX_SIZE, krylov_power_radius
from lsc_graph.spectra.operator import Operator
from lsc_graph.to_torch.loop import CellModule, SiteModule, Trajectory

# Dense local Jacobians of one layer, over all steps, are not built beyond this where there is another way:
# of layers whose units do not meet in time, and of others, whose matrices tell more: their depth edges are
# looked at everywhere. From some size on that takes longer, however few the steps.
MAX_DENSE_BYTES = 2**26
MAX_TIME_BYTES = 2**28
MAPS_FROM = 512
# Pairs of times of one sample that are looked at, and numbers held for those that are looked at together.
_MAX_PAIRS = 8
_MAX_ELEMENTS = 2**22
_BASIS = 32
# Elements of the rows of dense blocks that are pulled back at once.
_MAX_BUILT = 2**24
PullAt = Callable[[Sequence[int], Tensor], Tensor]


@dataclass(frozen=True)
class DepthMaps:
    """The blocks d s[t_target, target] / d s[t_source, source] of one depth edge, as maps of cotangents.

    `pull(numbers, cotangents)` maps [P, K, n_target] to [P, K, n_source] at the pairs of those numbers,
    in the type and on the device of `like`.
    """

    edge: DepthEdge
    pairs: tuple[tuple[int, int], ...]
    shape: tuple[int, int]
    pull: PullAt
    like: Tensor

    @property
    def ends(self) -> tuple[str, str, tuple[tuple[int, int], ...]]:
        """Which derivatives these are."""
        return self.edge.source, self.edge.target, self.pairs

    def within(self, enter: Callable[[], AbstractContextManager[None]]) -> DepthMaps:
        """The same, pulled within what is entered for it."""

        def pull(numbers: Sequence[int], cotangents: Tensor) -> Tensor:
            with enter():
                return self.pull(numbers, cotangents)

        return replace(self, pull=pull)

    def built(self) -> DepthMaps:
        """The same, pulled by matrices that are built once; as it is, if these take too much memory."""
        rows, columns = self.shape
        if len(self.pairs) * rows * columns * self.like.element_size() > MAX_BYTES:
            return self
        blocks = self.dense(range(len(self.pairs))).detach()
        return replace(self, pull=lambda numbers, cotangents: torch.bmm(cotangents, blocks[list(numbers)]))

    def pull_all(self, numbers: Sequence[int], cotangents: Tensor) -> Tensor:
        """Cotangents [P, K, n_target] pulled back at some pairs, in double precision on the CPU."""
        return self.pull(numbers, cotangents.to(self.like)).double().cpu()

    def sampled(self) -> list[int]:
        """Numbers of pairs spread over all of them."""
        count = min(len(self.pairs), _MAX_PAIRS)
        return torch.linspace(0, len(self.pairs) - 1, count).round().int().tolist() if count else []

    def radius(self, numbers: Sequence[int]) -> Estimate:
        """Spectral radii at some pairs, of square blocks.

        On the CPU by Krylov iteration on the transposed blocks. Elsewhere hundreds of small products take
        longer than the few large ones that blocks are built by.
        """
        size, device = self.shape[0], self.like.device.type
        if device != "cpu" and size <= MAX_DENSE:
            count = group_size(size, device)
            groups = [numbers[start : start + count] for start in range(0, len(numbers), count)]
            return Estimate.joined([radius_estimate(self.dense(own)) for own in groups])
        is_small = (MAX_SIZE + 1) * size * len(numbers) <= _MAX_ELEMENTS
        if is_small or device != "cpu":
            return krylov_power_radius(self._operator(numbers))
        count = max(1, _MAX_ELEMENTS // (_BASIS * size))
        parts = [numbers[start : start + count] for start in range(0, len(numbers), count)]
        return Estimate.joined([arnoldi_radius(self._operator(part), max_basis=_BASIS) for part in parts])

    def dense(self, numbers: Sequence[int]) -> Tensor:
        """The blocks at some pairs [P, n_target, n_source]."""
        rows = torch.eye(self.shape[0], dtype=self.like.dtype, device=self.like.device)
        count = max(1, _MAX_BUILT // (len(numbers) * max(self.shape)))
        parts = [self.pull(numbers, part.expand(len(numbers), -1, -1)) for part in torch.split(rows, count)]
        return torch.cat(parts, 1)

    def _operator(self, numbers: Sequence[int]) -> Operator:
        def apply(vectors: Tensor) -> Tensor:
            return self.pull(numbers, vectors[:, None])[:, 0]

        def at(chosen: Tensor) -> Operator:
            return self._operator([numbers[index] for index in chosen.tolist()])

        return Operator(apply, len(numbers), self.shape[0], self.like.dtype, self.like.device, at)

    def gain(self, numbers: Sequence[int], num_probes: int, generator: torch.Generator) -> ProbedGain:
        """Gains at some pairs, by probes."""

        def found(group: list[int]) -> ProbedGain:
            def pull(probes: Tensor) -> Tensor:
                return self.pull(group, handed(probes, self.like.device, self.like.dtype))

            return probed_gain(pull, len(group), self.shape, num_probes, generator)

        groups = point_groups(numbers, self.shape, num_probes)
        return ProbedGain.joined([found(group) for group in groups])


def is_too_large(module: CellModule, num_steps: int, max_bytes: int = MAX_DENSE_BYTES) -> bool:
    """Whether the dense Jacobians of a cell, over all steps, should not be built."""
    cell = module.cell
    delays = [state for delay in cell.delays for state in delay.layer.states]
    below = [state for own in (cell, *cell.delays) for state in (*own.below_now, *own.below_before)]
    widths = [size(state.shape) for state in (*below, *delays)]
    own = module.cell.layer.state_size
    return 4 * num_steps * own * max([own, *widths]) > max_bytes


def _pull_reads(
    module: CellModule, points: Sequence[Tensor], which: Sequence[int], cotangents: Tensor
) -> tuple[Tensor, ...]:
    """Cotangents [P, K, n] of a new state pulled back to some of what the cell reads: each [P, K, *shape]."""

    def pull(rows: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        def function(*chosen: Tensor) -> Tensor:
            given = list(values)
            for index, value in zip(which, chosen, strict=True):
                given[index] = value
            return flatten(module(*given))

        _, pullback, *_ = vjp(function, *(values[index] for index in which))
        found: tuple[Tensor, ...] = vmap(pullback)(rows)
        return found

    pulled: tuple[Tensor, ...] = at_points(pull, points, cotangents)
    return pulled


def _pull_at(
    site: SiteModule,
    module: CellModule,
    trajectory: Trajectory,
    points: Sequence[Tensor],
    times: Sequence[int],
    cotangents: Tensor,
    states: Collection[str] = (),
    through: Collection[str] = (),
) -> Rows:
    """Cotangents [P, K, n] of the new states at some steps, pulled back to `states` and what comes `through`.

    What delays carry is followed to where it comes from.
    """
    wanted = {*states, *through, *(delay.layer.name for delay in module.cell.delays)}
    which = [
        index
        for index, (_, name) in enumerate(module.reads)
        if points[index].is_floating_point() and name in wanted
    ]
    here = chosen_points(points, torch.tensor(times))
    pulled = _pull_reads(module, here, which, cotangents.to(points[0]))
    reads = {module.reads[index]: value for index, value in zip(which, pulled, strict=True)}
    return through_delays(site, trajectory, reads, times, through)


def maps_within_step(
    site: SiteModule, module: CellModule, trajectory: Trajectory, others: Sequence[Layer]
) -> list[DepthMaps]:
    """Depth edges to the other layers of the same step."""
    points = cell_points(module, trajectory)
    layer, num_steps = module.cell.layer, points[0].shape[0]
    found = []
    for other in others:
        names = {state.name for state in other.states}
        reads = [read for read in module.cell.reads if read.kind in STATES and read.name in names]
        for lag in sorted({read.steps_back for read in reads}):
            shift = lag * layer.time_step
            times = [time for time in range(num_steps) if 0 <= time - shift < num_steps]
            pairs = tuple((time - shift, time) for time in times)
            pull = partial(_step_pull, site, module, trajectory, points, other, lag, times)
            edge = DepthEdge(other.id, layer.id, shift)
            found.append(DepthMaps(edge, pairs, (layer.state_size, other.state_size), pull, points[0]))
    return found


def _step_pull(
    site: SiteModule,
    module: CellModule,
    trajectory: Trajectory,
    points: Sequence[Tensor],
    other: Layer,
    steps_back: int,
    times: Sequence[int],
    numbers: Sequence[int],
    cotangents: Tensor,
) -> Tensor:
    at = [times[number] for number in numbers]
    names = [state.name for state in other.states]
    rows = _pull_at(site, module, trajectory, points, at, cotangents, names)
    return state_columns(rows, steps_back, other.states)


def maps_through_glue(
    module: CellModule,
    trajectory: Trajectory,
    glue: Glue,
    ports: Sequence[Port],
    lower: Sequence[Layer],
    generator: torch.Generator,
) -> list[DepthMaps]:
    """Depth edges through the glue below, where it connects equal times, or others equally far apart.

    Raises:
        AnalysisError: it connects times otherwise, and the blocks are too large to be built.
    """
    points = cell_points(module, trajectory)
    num_steps, layer = points[0].shape[0], module.cell.layer
    connected: Connections = {}
    for port in ports:
        found = time_pairs(glue, port, num_steps, glue.site.times()[0], generator)
        if found:
            connected[port] = found
    lags = by_lag(connected)
    if lags is None:
        raise AnalysisError(
            "A layer that is too large for dense local Jacobians reads a mixture of other layers' times",
            where=layer.name,
            got=f"a state of {layer.state_size} elements",
            expected=f"at most {MAX_DENSE_BYTES // 2**20} MiB of local Jacobians",
            do="audit it with fewer steps, or export it at a smaller width",
        )
    maps = []
    for lag, own in lags.items():
        times = [time for time in range(num_steps) if 0 <= time - lag < num_steps]
        pairs = tuple((time - lag, time) for time in times)
        for source in lower:
            if any(state.name in names for state in source.states for names in own.values()):
                pull = partial(_glue_pull, module, trajectory, points, glue, tuple(own), source, pairs)
                edge = DepthEdge(source.id, layer.id, lag)
                maps.append(DepthMaps(edge, pairs, (layer.state_size, source.state_size), pull, points[0]))
    return maps


def _glue_pull(
    module: CellModule,
    trajectory: Trajectory,
    points: Sequence[Tensor],
    glue: Glue,
    ports: Sequence[Port],
    source: Layer,
    pairs: Sequence[tuple[int, int]],
    numbers: Sequence[int],
    cotangents: Tensor,
) -> Tensor:
    ends = [pairs[number] for number in numbers]
    through = {port.body for port in ports}
    heads = [head for _, head in ends]
    pulled = _pull_at(glue.site, module, trajectory, points, heads, cotangents, through=through)
    own = {port: port.of(pulled) for port in ports}
    num_rows, size = cotangents.shape[1], num_rows_at_once(glue)
    found = cotangents.new_empty(len(ends), num_rows, source.state_size)
    # Few rows at a time, each as large as what is read at all steps; in place, so that the heap stays whole.
    for start in range(0, num_rows, size):
        part = {port: rows[:, start : start + size] for port, rows in own.items()}
        found[:, start : start + size] = _pull_through(glue, part, source, ends)
    return found


def _pull_through(
    glue: Glue, read: Mapping[Port, Tensor], source: Layer, ends: Sequence[tuple[int, int]]
) -> Tensor:
    """Cotangents [P, K, ...] of what is read at the heads, as those [P, K, n] of states at the tails."""
    given: dict[str, Tensor] = {}
    for port, rows in read.items():
        full = rows.new_zeros(glue.site.site.num_steps, *rows.shape[1:])
        full[[head for _, head in ends]] = rows
        placed = port.place(full, None, glue.read[port.main])
        given[port.main] = given[port.main] + placed if port.main in given else placed
    states = pull_rows(glue, given)
    whole = torch.cat([flat_from(states[state.name], 2) for state in source.states], 2)
    return whole.movedim(1, 0)[[tail for tail, _ in ends]]
