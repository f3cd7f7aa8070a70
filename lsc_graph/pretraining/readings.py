"""Mean radii of a model at a few points, with what autograd needs to know how its weights move them."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor

from lsc_graph.cells import Layer
from lsc_graph.errors import AnalysisError
from lsc_graph.exposure import exposed_states
from lsc_graph.jacobians.chain import MAX_DENSE_ELEMENTS, NUM_PROBES
from lsc_graph.jacobians.summary import active_indices
from lsc_graph.measure import FeedForward, Sequences, Streaming
from lsc_graph.prepare import is_streaming
from lsc_graph.pretraining.chain_rows import pull_chain
from lsc_graph.pretraining.eigenpairs import (
    Direction,
    gain_direction,
    gains,
    probed_gain_direction,
    radii,
    radius_direction,
    unit_direction,
    unit_radii,
)
from lsc_graph.pretraining.parametrised import Parametrised
from lsc_graph.pretraining.reduction import shared_range, unit_matrices
from lsc_graph.pretraining.rows import EdgeRows, RowPuller, detached
from lsc_graph.sampling import Sample
from lsc_graph.to_torch.program import Run

Model = Sequences | Streaming | FeedForward
Edge = tuple[str, str]
Values = Mapping[str, Tensor]
_MIN_GROUPS = 4


class Kind(StrEnum):
    """Along which axis of the grid an edge runs."""

    TIME = "time"
    DEPTH = "depth"


class NotFiniteError(AnalysisError):
    """Training has led to values that are not finite."""


@dataclass(frozen=True)
class Reading:
    """One edge's radius (its gain, where the block is not square) over points.

    `values` is [P], float64, sample after sample: `sizes` says how many each has. `derivative` is a scalar
    whose gradient with respect to the parameters is that of the mean of `values`; None if none was asked for.
    """

    edge: Edge
    values: Tensor
    is_radius: bool
    derivative: Tensor | None
    sizes: tuple[int, ...] = ()

    @property
    def kind(self) -> Kind:
        return Kind.TIME if self.edge[0] == self.edge[1] else Kind.DEPTH

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    def by_sample(self) -> tuple[Tensor, ...]:
        """The values of each sample."""
        return torch.split(self.values, list(self.sizes))

    @property
    def std_error(self) -> float:
        """Of the mean: as if all points were independent, or as if samples were, whichever is larger."""
        groups = [float(part.mean()) for part in self.by_sample() if part.numel()]
        between = _std_error(torch.tensor(groups, dtype=torch.float64)) if len(groups) >= _MIN_GROUPS else 0.0
        return max(_std_error(self.values), between)


def _std_error(values: Tensor) -> float:
    count = values.numel()
    return float(values.std()) / math.sqrt(count) if count > 1 else 0.0


@dataclass
class _Block:
    """One edge at the points of one sample: where its active block lies, and its direction."""

    rows: list[int]
    columns: list[int]
    direction: Direction
    is_radius: bool


class Reader:
    """Takes readings of one model with any values of its parameters.

    Args:
        model: the torch view.
        generator: randomness of probes, and for finding what the glue connects.
    """

    def __init__(self, model: Model, generator: torch.Generator) -> None:
        self.model, self._generator = model, generator
        self.parametrised = Parametrised(model.program, model.parameters)
        prepared = model.prepared
        self.layers = {layer.id: layer for layer in prepared.cell_graph.layers}
        self._exposed = exposed_states(prepared.findings, [own for own in prepared.cells if own])
        self._puller: RowPuller | None = None
        self.sizes: dict[Edge, int] = {}
        """Of the matrices whose eigenvalues were needed for each edge, as far as any were read."""

    def read(
        self,
        values: Values,
        samples: Sequence[tuple[int, Sample]],
        num_times: int,
        seed: int,
        *,
        with_derivative: bool,
    ) -> list[Reading]:
        """Readings of every edge, in depth order.

        Args:
            values: parameters by initializer name; the file's own where one is missing.
            samples: what to run the model on, numbered: each has steps and probes of its own.
            num_times: how many steps of each sample to look at.
            seed: which steps they are.
            with_derivative: whether to keep the graph.
        """
        read = self._read_chain if isinstance(self.model, FeedForward) else self._read_sample
        num_steps = self.model.prepared.cell_graph.num_steps

        def function() -> list[Reading]:
            parts: defaultdict[Edge, list[Reading]] = defaultdict(list)
            for index, sample in samples:
                generator = np.random.default_rng((seed, index))
                times = spread_times(num_steps, num_times, generator)
                probes = torch.Generator().manual_seed(int(generator.integers(2**62)))
                for reading in read(sample, times, probes, with_derivative):
                    parts[reading.edge].append(reading)
            return [_joined(readings) for readings in parts.values()]

        with torch.set_grad_enabled(with_derivative):
            return self.parametrised.call(values, function)

    def _read_sample(
        self, sample: Sample, times: Sequence[int], generator: torch.Generator, with_derivative: bool
    ) -> list[Reading]:
        model = self.model
        run = model.run(sample)
        inputs = self.inputs_of(sample)
        puller = self.puller(detached(run), inputs)
        num_points = len(times)

        def identity(layer: Layer) -> Tensor:
            return torch.eye(layer.state_size).expand(num_points, -1, -1)

        with torch.no_grad():
            dense = puller.pull(detached(run), inputs, times, identity)
        blocks = [self._block(edge, generator, with_derivative) for edge in dense]
        if not with_derivative:
            return [_bare(e, b) for e, b in zip(dense, blocks, strict=True)]
        slots = _Slots(dense)
        cotangents = slots.fill(dense, blocks, self.layers, num_points)
        return _differentiable(dense, blocks, slots.pick(puller.pull(run, inputs, times, cotangents)))

    def inputs_of(self, sample: Sample) -> dict[str, Tensor]:
        """What the glue of a model reads; nothing where the model is one step."""
        is_step = is_streaming(self.model.prepared)
        return {} if is_step else self.model.tensors(sample.inputs | sample.initial)

    def puller(self, run: Run, inputs: Values) -> RowPuller:
        """Pulls rows through the model; made, and shown what the glue connects, on the first run."""
        if self._puller is None:
            self._puller = RowPuller(self.model.program, self._generator)  # type: ignore[arg-type]
            with torch.no_grad():
                self._puller.learn(run, inputs)
        return self._puller

    def _read_chain(
        self, sample: Sample, times: Sequence[int], generator: torch.Generator, with_derivative: bool
    ) -> list[Reading]:
        assert isinstance(self.model, FeedForward)
        program, layers = self.model.program, list(self.layers.values())
        run = self.model.run(sample)

        def looks(source: Layer, target: Layer) -> Tensor:
            if source.state_size * target.state_size <= MAX_DENSE_ELEMENTS:
                return torch.eye(target.state_size)[None]
            return torch.randn(1, NUM_PROBES, target.state_size, generator=generator)

        state = generator.get_state()
        with torch.no_grad():
            dense = pull_chain(program, [detached(run)], layers, looks)
        generator.set_state(state)
        used = {target.id: looks(source, target) for source, target in itertools.pairwise(layers)}
        blocks = [self._chain_block(edge, used[edge.target], generator, with_derivative) for edge in dense]
        if not with_derivative:
            return [_bare(e, b) for e, b in zip(dense, blocks, strict=True)]
        rows = {e.target: _padded(b, self.layers[e.target]) for e, b in zip(dense, blocks, strict=True)}
        pulled = pull_chain(program, [run], layers, lambda source, target: rows[target.id])
        return _differentiable(dense, blocks, [edge.rows for edge in pulled])

    def _chain_block(
        self, edge: EdgeRows, probes: Tensor, generator: torch.Generator, with_derivative: bool
    ) -> _Block:
        source, target = self.layers[edge.source], self.layers[edge.target]
        if source.state_size * target.state_size <= MAX_DENSE_ELEMENTS:
            return self._block(edge, generator, with_derivative)
        direction = probed_gain_direction(probes, edge.rows.detach().cpu(), target.state_size)
        _check_finite(direction.value, source, target)
        rows, columns = list(range(target.state_size)), list(range(source.state_size))
        return _Block(rows, columns, direction, False)

    def _block(self, edge: EdgeRows, generator: torch.Generator, with_derivative: bool) -> _Block:
        source, target = self.layers[edge.source], self.layers[edge.target]
        matrices = edge.rows.detach().cpu()
        _check_finite(matrices, source, target)
        rows, columns = list(range(target.state_size)), list(range(source.state_size))
        if source is target:
            units = unit_matrices(matrices, target)
            if units is not None:
                self.sizes[edge.source, edge.target] = units.shape[2]
                found = unit_direction(units) if with_derivative else unit_radii(units)
                return _Block(rows, columns, found, True)
        elif target.time_step != 0:
            exposed = self._exposed.get(target.id, frozenset())
            rows, columns, _ = active_indices(matrices, source, target, exposed)
        active = matrices[:, rows][:, :, columns]
        if len(rows) != len(columns):
            self.sizes[edge.source, edge.target] = 1
            gain = gain_direction(active, generator) if with_derivative else gains(active)
            return _Block(rows, columns, gain, False)
        basis = shared_range(active)
        self.sizes[edge.source, edge.target] = len(rows) if basis is None else basis.shape[1]
        radius = radius_direction(active, basis) if with_derivative else radii(active, basis)
        return _Block(rows, columns, radius, True)


def _check_finite(values: Tensor, source: Layer, target: Layer) -> None:
    if not bool(values.isfinite().all()):
        raise NotFiniteError("A local Jacobian is not finite", where=f"{source.name} -> {target.name}")


def spread_times(num_steps: int, num_times: int, generator: np.random.Generator) -> list[int]:
    """Different steps of a sequence, one drawn from each of `num_times` equal stretches of it."""
    count = min(num_times, num_steps)
    edges = np.linspace(0, num_steps, count + 1)
    return [int(generator.integers(int(a), max(int(b), int(a) + 1))) for a, b in itertools.pairwise(edges)]


def _padded(block: _Block, target: Layer) -> Tensor:
    """A block's left vectors as cotangents of the whole new state, [P, 2, n_target]."""
    left = block.direction.left
    full = left.new_zeros(left.shape[0], 2, target.state_size)
    full[:, :, block.rows] = left
    return full


class _Slots:
    """Which rows of a layer's cotangents belong to which edge and point.

    An edge may reach one step from several earlier ones: each occurrence has two rows of its own.
    """

    def __init__(self, dense: Sequence[EdgeRows]) -> None:
        self.first: list[int] = []
        self.occurrence: list[list[int]] = []
        used: defaultdict[str, int] = defaultdict(int)
        for edge in dense:
            seen: defaultdict[int, int] = defaultdict(int)
            numbers = []
            for target in edge.targets:
                numbers.append(seen[target])
                seen[target] += 1
            self.first.append(used[edge.target])
            self.occurrence.append(numbers)
            used[edge.target] += 2 * (max(numbers) + 1)
        self.num_rows = dict(used)

    def rows(self, edge: int) -> Tensor:
        """Row numbers [P, 2] of an edge's points."""
        first = self.first[edge] + 2 * torch.tensor(self.occurrence[edge])
        return torch.stack([first, first + 1], 1)

    def fill(
        self,
        dense: Sequence[EdgeRows],
        blocks: Sequence[_Block],
        layers: Mapping[str, Layer],
        num_points: int,
    ) -> Callable[[Layer], Tensor]:
        """The cotangents of every layer, [num_points, R, n]."""
        found: dict[str, Tensor] = {}
        for number, (edge, block) in enumerate(zip(dense, blocks, strict=True)):
            padded = _padded(block, layers[edge.target])
            like = padded.new_zeros(num_points, self.num_rows[edge.target], padded.shape[2])
            full = found.setdefault(edge.target, like)
            full[torch.tensor(edge.targets)[:, None], self.rows(number)] = padded
        return lambda layer: found.get(layer.id, torch.zeros(num_points, 1, layer.state_size))

    def pick(self, pulled: Sequence[EdgeRows]) -> list[Tensor]:
        """Each edge's own rows, [P, 2, n_source]."""
        return [
            edge.rows[torch.arange(len(edge.targets))[:, None], self.rows(number)]
            for number, edge in enumerate(pulled)
        ]


def _bare(edge: EdgeRows, block: _Block) -> Reading:
    values = block.direction.value
    return Reading((edge.source, edge.target), values, block.is_radius, None, (values.numel(),))


def _differentiable(
    dense: Sequence[EdgeRows], blocks: Sequence[_Block], pulled: Sequence[Tensor]
) -> list[Reading]:
    """The readings, each with the scalar d mean = sum over points of left^T dM right / P."""
    readings = []
    for edge, block, rows in zip(dense, blocks, pulled, strict=True):
        right = block.direction.right.to(rows)
        scalar = (rows[:, :, block.columns] * right).sum()
        known = max(1, int(block.direction.is_known.sum()))
        bare = _bare(edge, block)
        readings.append(replace(bare, derivative=scalar / known))
    return readings


def _joined(readings: Sequence[Reading]) -> Reading:
    """Readings of one edge from several samples as one; each sample's derivative counts by its points."""
    values = torch.cat([reading.values for reading in readings])
    parts = [r.derivative * (r.values.numel() / values.numel()) for r in readings if r.derivative is not None]
    derivative = torch.stack(parts).sum() if parts else None
    sizes = tuple(size for reading in readings for size in reading.sizes)
    return Reading(readings[0].edge, values, readings[0].is_radius, derivative, sizes)
