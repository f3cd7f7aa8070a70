"""Mean radii of a model at a few points, with what autograd needs to know how its weights move them."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
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
from lsc_graph.pretraining.batches import Together, Tree, detached, part, recorded, run_of, stacked
from lsc_graph.pretraining.chain_rows import pull_chain
from lsc_graph.pretraining.eigenpairs import (
    gain_direction,
    gains,
    probed_gain_direction,
    radii,
    radius_direction,
    unit_direction,
    unit_radii,
)
from lsc_graph.pretraining.parametrised import Parametrised
from lsc_graph.pretraining.reduction import covers, shared_range, unit_matrices
from lsc_graph.pretraining.rows import EdgeRows, RowPuller
from lsc_graph.pretraining.slots import Block, Slots, padded
from lsc_graph.sampling import Sample
from lsc_graph.to_torch.program import Run

Model = Sequences | Streaming | FeedForward
Edge = tuple[str, str]
Values = Mapping[str, Tensor]
_MIN_GROUPS = 4
# Samples that look at the same steps, so that they can be read together; what that may take.
BUCKET, MAX_BYTES = 16, 2**29


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
        self._together = Together()
        self._bytes_per_point = _bytes_per_point(model, tuple(self.layers.values()))
        self._bases: dict[Edge, Tensor | None] = {}
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
            samples: what to run the model on, numbered; 16 numbers in a row look at the same steps, each
                has probes of its own.
            num_times: how many steps of each sample to look at.
            seed: which steps they are.
            with_derivative: whether to keep the graph.
        """
        read = self._read_chain if isinstance(self.model, FeedForward) else self._read_sequences
        num_steps = self.model.prepared.cell_graph.num_steps

        self._bases = {}

        def function() -> list[Reading]:
            parts: defaultdict[Edge, list[Reading]] = defaultdict(list)
            for bucket, own in _in_buckets(samples).items():
                times = spread_times(num_steps, num_times, np.random.default_rng((seed, bucket)))
                size = self._at_once(len(times))
                for start in range(0, len(own), size):
                    here = own[start : start + size]
                    probes = [_generator(seed, index) for index, _ in here]
                    for readings in read([sample for _, sample in here], times, probes, with_derivative):
                        for reading in readings:
                            parts[reading.edge].append(reading)
            return [_joined(readings) for readings in parts.values()]

        with torch.set_grad_enabled(with_derivative):
            return self.parametrised.call(values, function)

    def _at_once(self, num_points: int) -> int:
        """How many samples fit in memory together."""
        return max(1, MAX_BYTES // max(1, self._bytes_per_point * num_points))

    def _read_sequences(
        self,
        samples: Sequence[Sample],
        times: Sequence[int],
        generators: Sequence[torch.Generator],
        with_derivative: bool,
    ) -> list[list[Reading]]:
        program, layers = self.model.program, self.layers
        is_step = is_streaming(self.model.prepared)
        feeds = stacked([self.model.feed(sample) for sample in samples])
        runs = self._together.each(lambda feed: recorded(program(*feed)), feeds)
        past = detached(runs)
        puller = self.puller(run_of(part(past, 0)), {} if is_step else part(feeds, 0)[0])
        found: list[EdgeRows] = []

        def pull(feed: Tree, run: Tree, cotangents: Mapping[str, Tensor]) -> list[Tensor]:
            given = {} if is_step else feed[0]
            found[:] = puller.pull(run_of(run), given, times, lambda layer: cotangents[layer.id])
            return [edge.rows for edge in found]

        whole = {
            name: torch.eye(layer.state_size).expand(len(samples), len(times), -1, -1)
            for name, layer in layers.items()
        }
        with torch.no_grad():
            pulled = self._together.each(pull, feeds, past, whole)
        dense = [
            [_with_rows(e, r[k]) for e, r in zip(found, pulled, strict=True)] for k in range(len(samples))
        ]
        blocks = [
            [self._block(edge, generator, with_derivative) for edge in edges]
            for edges, generator in zip(dense, generators, strict=True)
        ]
        if not with_derivative:
            return [_bare_all(edges, own) for edges, own in zip(dense, blocks, strict=True)]
        slots = Slots(dense[0])
        filled = [
            slots.fill(edges, own, layers, len(times)) for edges, own in zip(dense, blocks, strict=True)
        ]
        pulled = self._together.each(pull, feeds, runs, stacked(filled))
        picked = [
            slots.pick([_with_rows(e, r[k]) for e, r in zip(found, pulled, strict=True)])
            for k in range(len(samples))
        ]
        return [_differentiable(*three) for three in zip(dense, blocks, picked, strict=True)]

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
        self,
        samples: Sequence[Sample],
        times: Sequence[int],
        generators: Sequence[torch.Generator],
        with_derivative: bool,
    ) -> list[list[Reading]]:
        assert isinstance(self.model, FeedForward)
        program, layers = self.model.program, list(self.layers.values())
        feeds = stacked([self.model.feed(sample) for sample in samples])
        boundaries = self._together.each(lambda feed: recorded(program(*feed)), feeds)["boundaries"]
        used = {
            target.id: torch.cat([self._looks(source, target, generator) for generator in generators])
            for source, target in itertools.pairwise(layers)
        }
        with torch.no_grad():
            pulled = pull_chain(program, detached(boundaries), layers, lambda source, target: used[target.id])
        dense = [[_of_point(edge, k) for edge in pulled] for k in range(len(samples))]
        blocks = [
            [self._chain_block(e, used[e.target][k : k + 1], generators[k], with_derivative) for e in edges]
            for k, edges in enumerate(dense)
        ]
        if not with_derivative:
            return [_bare_all(edges, own) for edges, own in zip(dense, blocks, strict=True)]
        rows = {
            edge.target: torch.cat([padded(own[number], self.layers[edge.target]) for own in blocks])
            for number, edge in enumerate(pulled)
        }
        pulled = pull_chain(program, boundaries, layers, lambda source, target: rows[target.id])
        return [
            _differentiable(dense[k], blocks[k], [edge.rows[k : k + 1] for edge in pulled])
            for k in range(len(samples))
        ]

    def _looks(self, source: Layer, target: Layer, generator: torch.Generator) -> Tensor:
        """Cotangents by which a block of a chain is seen: whole, or probed where it is too large."""
        if source.state_size * target.state_size <= MAX_DENSE_ELEMENTS:
            return torch.eye(target.state_size)[None]
        return torch.randn(1, NUM_PROBES, target.state_size, generator=generator)

    def _chain_block(
        self, edge: EdgeRows, probes: Tensor, generator: torch.Generator, with_derivative: bool
    ) -> Block:
        source, target = self.layers[edge.source], self.layers[edge.target]
        if source.state_size * target.state_size <= MAX_DENSE_ELEMENTS:
            return self._block(edge, generator, with_derivative)
        direction = probed_gain_direction(probes, edge.rows.detach().cpu(), target.state_size)
        _check_finite(direction.value, source, target)
        rows, columns = list(range(target.state_size)), list(range(source.state_size))
        return Block(rows, columns, direction, False)

    def _basis(self, edge: Edge, matrices: Tensor) -> Tensor | None:
        """A range that an edge's matrices share: that of the reading's first sample where it fits."""
        if edge in self._bases:
            kept = self._bases[edge]
            if kept is None or covers(kept, matrices):
                return kept
        self._bases[edge] = shared_range(matrices)
        return self._bases[edge]

    def _block(self, edge: EdgeRows, generator: torch.Generator, with_derivative: bool) -> Block:
        source, target = self.layers[edge.source], self.layers[edge.target]
        matrices = edge.rows.detach().cpu()
        _check_finite(matrices, source, target)
        rows, columns = list(range(target.state_size)), list(range(source.state_size))
        if source is target:
            units = unit_matrices(matrices, target)
            if units is not None:
                self.sizes[edge.source, edge.target] = units.shape[2]
                found = unit_direction(units) if with_derivative else unit_radii(units)
                return Block(rows, columns, found, True)
        elif target.time_step != 0:
            exposed = self._exposed.get(target.id, frozenset())
            rows, columns, _ = active_indices(matrices, source, target, exposed)
        active = matrices[:, rows][:, :, columns]
        if len(rows) != len(columns):
            self.sizes[edge.source, edge.target] = 1
            gain = gain_direction(active, generator) if with_derivative else gains(active)
            return Block(rows, columns, gain, False)
        basis = self._basis((source.id, target.id), active)
        self.sizes[edge.source, edge.target] = len(rows) if basis is None else basis.shape[1]
        radius = radius_direction(active, basis) if with_derivative else radii(active, basis)
        return Block(rows, columns, radius, True)


def _check_finite(values: Tensor, source: Layer, target: Layer) -> None:
    if not bool(values.sum().isfinite()):  # a pass less over large matrices than isfinite().all()
        raise NotFiniteError("A local Jacobian is not finite", where=f"{source.name} -> {target.name}")


def spread_times(num_steps: int, num_times: int, generator: np.random.Generator) -> list[int]:
    """Different steps of a sequence, one drawn from each of `num_times` equal stretches of it."""
    count = min(num_times, num_steps)
    edges = np.linspace(0, num_steps, count + 1)
    return [int(generator.integers(int(a), max(int(b), int(a) + 1))) for a, b in itertools.pairwise(edges)]


def _in_buckets(samples: Sequence[tuple[int, Sample]]) -> dict[int, list[tuple[int, Sample]]]:
    """Samples that look at the same steps: by their numbers alone, whoever reads the others."""
    found: defaultdict[int, list[tuple[int, Sample]]] = defaultdict(list)
    for index, sample in samples:
        found[index // BUCKET].append((index, sample))
    return found


def _generator(seed: int, index: int) -> torch.Generator:
    """A sample's own probes."""
    return torch.Generator().manual_seed(int(np.random.default_rng((seed, index, 1)).integers(2**62)))


def _bytes_per_point(model: Model, layers: Sequence[Layer]) -> int:
    """What the local Jacobians of one step of one sample take, with what is computed on the way to them."""
    if isinstance(model, FeedForward):
        sizes = [min(a.state_size * b.state_size, MAX_DENSE_ELEMENTS) for a, b in itertools.pairwise(layers)]
        return 16 * sum(sizes)
    return 24 * sum(layer.state_size**2 for layer in layers)


def _with_rows(edge: EdgeRows, rows: Tensor) -> EdgeRows:
    return replace(edge, rows=rows)


def _of_point(edge: EdgeRows, point: int) -> EdgeRows:
    return EdgeRows(edge.source, edge.target, (0,), edge.rows[point : point + 1])


def _bare_all(edges: Sequence[EdgeRows], blocks: Sequence[Block]) -> list[Reading]:
    return [_bare(edge, block) for edge, block in zip(edges, blocks, strict=True)]


def _bare(edge: EdgeRows, block: _Block) -> Reading:
    values = block.direction.value
    return Reading((edge.source, edge.target), values, block.is_radius, None, (values.numel(),))


def _differentiable(
    dense: Sequence[EdgeRows], blocks: Sequence[Block], pulled: Sequence[Tensor]
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
