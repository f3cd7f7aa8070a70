"""Mean radii of a model at a few points, with what autograd needs to know how its weights move them."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree

from lsc_graph.auditing.measure import FeedForward, Sequences, Streaming
from lsc_graph.jacobians.chain import MAX_DENSE_ELEMENTS, NUM_PROBES
from lsc_graph.layers.cells import Layer
from lsc_graph.layers.exposure import exposed_states
from lsc_graph.prepare import is_streaming
from lsc_graph.pretraining.batches import Together, Tree, detached, part, recorded, run_of, stacked
from lsc_graph.pretraining.chain_rows import pull_chain
from lsc_graph.pretraining.edge_blocks import EdgeBlocks, check_finite
from lsc_graph.pretraining.edge_rows import EdgeRows, chosen
from lsc_graph.pretraining.eigenpairs import probed_gain_direction
from lsc_graph.pretraining.narrow import Looks
from lsc_graph.pretraining.parametrised import Parametrised
from lsc_graph.pretraining.reading import Edge, Reading, of_all
from lsc_graph.pretraining.rows import RowPuller
from lsc_graph.pretraining.slots import Block, Slots, Whole, padded
from lsc_graph.pretraining.spread_times import spread_times
from lsc_graph.running.sampling import Sample
from lsc_graph.to_torch.loop import CellModule, SiteModule
from lsc_graph.to_torch.program import Run, SequenceProgram, StreamingProgram

Model = Sequences | Streaming | FeedForward
Values = Mapping[str, Tensor]
# Points whose whole Jacobians are to show which rows of them suffice.
_FIRST_POINTS = 4
# Samples that are read together, and what that may take.
_MOST_AT_ONCE, MAX_BYTES = 64, 2**29
# Rows that reach so many times take as much memory as a point whose Jacobian is computed.
_TIMES_PER_POINT = 3


@dataclass(frozen=True)
class _Stretch:
    """Samples that are read together: what they were fed and did, their steps to look at, their probes."""

    inputs: Tree
    runs: Tree
    times: Sequence[Sequence[int]]
    generators: Sequence[torch.Generator]

    def part(self, start: int, stop: int | None = None) -> _Stretch:
        """Some of the samples."""
        inputs, runs = _pytree.tree_map(lambda value: value[start:stop], (self.inputs, self.runs))
        return _Stretch(inputs, runs, self.times[start:stop], self.generators[start:stop])

    def detached(self) -> _Stretch:
        """The same without a graph."""
        return replace(self, runs=detached(self.runs))


class Reader:
    """Takes readings of one model with any values of its parameters.

    Args:
        model: the torch view.
        generator: randomness of probes, and for finding what the glue connects.
        entries: of layers whose states are batches, where the elements of each entry lie (`batch_entries`).
    """

    def __init__(
        self, model: Model, generator: torch.Generator, entries: Mapping[str, Tensor] | None = None
    ) -> None:
        self.model, self._generator = model, generator
        self.parametrised = Parametrised(model.program, model.parameters)
        prepared = model.prepared
        self.layers = {layer.id: layer for layer in prepared.cell_graph.layers}
        exposed = exposed_states(prepared.findings, [own for own in prepared.cells if own])
        self.blocks = EdgeBlocks(self.layers, exposed, entries or {})
        self._puller: RowPuller | None = None
        self._together = Together()
        self._wanted: Collection[Edge] | None = None
        self._seen: set[Edge] = set()
        self._has_seen_all = False
        self._read_of: dict[str, Tensor] = {}
        self._order: dict[Edge, int] = {}

    def read(
        self,
        values: Values,
        samples: Sequence[tuple[int, Sample]],
        num_times: int,
        seed: int,
        *,
        with_derivative: bool,
        through_time: bool = True,
        only: Collection[Edge] | None = None,
    ) -> list[Reading]:
        """Readings of every edge, in depth order.

        Args:
            values: parameters by initializer name; the file's own where one is missing.
            samples: what to run the model on, numbered: each has steps and probes of its own.
            num_times: how many steps of each sample to look at.
            seed: which steps they are.
            with_derivative: whether to keep the graph, and to look at every Jacobian whole.
            through_time: whether derivatives follow the states back in time. Where a network is chaotic they
                explode there and say nothing about means; those of each step's own effect stay small.
            only: the edges to read, at the price of these alone; all of them where it is None.
        """
        read = self._read_chain if isinstance(self.model, FeedForward) else self._read_sequences
        num_steps = self.model.prepared.cell_graph.num_steps

        self._wanted = only
        if with_derivative or not _are_same(self._read_of, values):
            # Which few rows suffice depends on the weights; that no few do is taken to be so at any weights:
            # where it is not, that costs time alone.
            self._seen -= set(self.blocks.narrow)
            self._has_seen_all &= not self.blocks.narrow
            self.blocks.forget_narrow()
            self._read_of = {name: value.detach().clone() for name, value in values.items()}

        def function() -> list[Reading]:
            found: list[list[Reading]] = []
            start = 0
            while start < len(samples):
                size = self._at_once(min(num_times, num_steps))
                here = samples[start : start + size]
                start += size
                times = [spread_times(num_steps, num_times, seed, index) for index, _ in here]
                probes = [_generator(seed, index) for index, _ in here]
                found += read([sample for _, sample in here], times, probes, with_derivative)
            return sorted(of_all(found), key=lambda reading: self._order.get(reading.edge, 0))

        with torch.set_grad_enabled(with_derivative), self.states_alone(forgets=not through_time):
            return self.parametrised.call(values, function)

    @contextmanager
    def states_alone(self, *, forgets: bool = False) -> Iterator[None]:
        """Runs of the model for their states; what one step emits is not computed, as no other site reads it.

        Args:
            forgets: whether gradients end at the step before.
        """
        sites = [module for module in self.model.program.modules() if isinstance(module, SiteModule)]
        for site in sites:
            site.forgets, site.emits = forgets, not is_streaming(self.model.prepared)
        try:
            yield
        finally:
            for site in sites:
                site.forgets, site.emits = False, True

    def _at_once(self, num_points: int) -> int:
        """How many samples fit in memory together."""
        wanted = self._wanted if self._is_new() else self._seen_and_wanted() - set(self.blocks.narrow)
        targets = self.layers if wanted is None else dict.fromkeys(target for _, target in wanted)
        per_point = _bytes_per_point(self.model, [self.layers[name] for name in targets])
        if self._puller is not None and self._puller.is_mixed:
            # Pulled from one time after another, down to all times.
            num_steps = self.model.prepared.cell_graph.num_steps
            num_points *= max(self._puller.most_sources, num_steps // _TIMES_PER_POINT)
        return max(1, min(_MOST_AT_ONCE, MAX_BYTES // max(1, per_point * num_points)))

    def _read_sequences(
        self,
        samples: Sequence[Sample],
        times: Sequence[Sequence[int]],
        generators: Sequence[torch.Generator],
        with_derivative: bool,
    ) -> list[list[Reading]]:
        """Readings of every edge: a list for each stretch of samples."""
        feeds = stacked([self.model.feed(sample) for sample in samples])
        program = self.model.program
        runs = self._together.each(lambda feed: recorded(program(*feed)), feeds)
        inputs = {} if is_streaming(self.model.prepared) else feeds[0]
        self.puller(run_of(part(detached(runs), 0)), part(inputs, 0))
        stretch = _Stretch(inputs, runs, times, generators)
        return self._read_differentiable(stretch) if with_derivative else self._read_together(stretch)

    def _identity(self, num_points: int) -> dict[str, Tensor]:
        """Cotangents that give whole Jacobians, [num_points, n, n] by layer."""
        return {
            name: torch.eye(layer.state_size).expand(num_points, -1, -1)
            for name, layer in self.layers.items()
        }

    def _read_together(self, stretch: _Stretch) -> list[list[Reading]]:
        """Readings of several samples: by few rows, where the first ones' Jacobians say that these do."""
        if self._is_new():
            size = max(1, _FIRST_POINTS // len(stretch.times[0]))
            head = self._read_dense(stretch.part(0, size))
            self._note_seen(reading.edge for reading in head)
            return [head, *self._read_together(stretch.part(size))] if len(stretch.times) > size else [head]
        found = self._read_narrow(stretch)
        dense = self._seen_and_wanted() - set(self.blocks.narrow)
        if dense:
            wanted, self._wanted = self._wanted, dense
            found = [*found, *self._read_dense(stretch)]
            self._wanted = wanted
        return [found]

    def _is_new(self) -> bool:
        """Whether no whole Jacobian of some edge that is wanted was seen at these weights."""
        return not (self._has_seen_all or (self._wanted is not None and set(self._wanted) <= self._seen))

    def _seen_and_wanted(self) -> set[Edge]:
        return self._seen if self._wanted is None else self._seen & set(self._wanted)

    def _note_seen(self, edges: Iterable[Edge]) -> None:
        """The edges of whole Jacobians, of all that are wanted."""
        found = list(edges)
        self._seen |= {*found, *(self._wanted or ())}
        self._has_seen_all |= self._wanted is None
        for edge in found:
            self._order.setdefault(edge, len(self._order))

    def _read_dense(self, stretch: _Stretch) -> list[Reading]:
        """By whole Jacobians."""
        wholes = self._whole(stretch.detached(), with_derivative=False)
        return [_bare(whole.edge, whole.block, whole.sizes) for whole in wholes]

    def _whole(self, stretch: _Stretch, *, with_derivative: bool) -> list[Whole]:
        """How the whole Jacobians of each edge are read that has any point."""
        times = stretch.times
        edges, pulled = self._pull_together(stretch, self._identity(len(times[0])), self._wanted)
        kept, every = [], []
        for number, (edge, rows) in enumerate(zip(edges, pulled, strict=True)):
            positions = [edge.positions(own, self._steps[edge.target]) for own in times]
            count = sum(map(len, positions))
            if count:
                is_whole = count == rows.shape[0] * rows.shape[1]
                own = [chosen(rows[k], positions[k]) for k in range(len(times))]
                every.append(replace(edge, rows=rows.flatten(0, 1) if is_whole else torch.cat(own)))
                kept.append((number, edge, positions))
        sizes = [list(map(len, positions)) for _, _, positions in kept]
        blocks = self.blocks.blocks(every, sizes, stretch.generators, with_derivative=with_derivative)
        return [Whole(*own, block) for own, block in zip(kept, blocks, strict=True)]

    def _read_differentiable(self, stretch: _Stretch) -> list[list[Reading]]:
        """By whole Jacobians for the values, and two rows of each, with their graph, for the derivative."""
        with torch.no_grad():
            wholes = self._whole(stretch.detached(), with_derivative=True)
        edges = [whole.edge for whole in wholes]
        self._note_seen((edge.source, edge.target) for edge in edges)
        slots = Slots(edges)
        cotangents = slots.fill(wholes, self.layers, len(stretch.times[0]))
        _, pulled = self._pull_together(stretch, cotangents, self._wanted, is_each=True)
        picked = slots.pick([pulled[whole.number] for whole in wholes])
        return [
            [
                _differentiable(whole.edge, whole.sizes, whole.block, rows[whole.flat])
                for whole, rows in zip(wholes, picked, strict=True)
            ]
        ]

    def _read_narrow(self, stretch: _Stretch) -> list[Reading]:
        """By few rows, of the edges that these suffice for."""
        wanted = self._seen_and_wanted()
        narrow = {edge: own for edge, own in self.blocks.narrow.items() if edge in wanted}
        looks = {
            name: Looks(list(dict.fromkeys(n for (_, target), n in narrow.items() if target == name)))
            for name in dict.fromkeys(target for _, target in narrow)
        }
        if not looks:
            return []
        num_points = len(stretch.times[0])
        cotangents = {name: own.cotangents.expand(num_points, -1, -1) for name, own in looks.items()}
        edges, pulled = self._pull_together(stretch.detached(), cotangents, set(narrow))
        values = [
            self.blocks.narrow_radii(e, looks[e.target], rows) for e, rows in zip(edges, pulled, strict=True)
        ]
        for edge, own in zip(edges, values, strict=True):
            if own is None:
                self.blocks.lose((edge.source, edge.target))
        return [
            self._of_points(edge, own, stretch.times)
            for edge, own in zip(edges, values, strict=True)
            if own is not None and (edge.source, edge.target) in self.blocks.narrow
        ]

    def _of_points(self, edge: EdgeRows, values: Tensor, times: Sequence[Sequence[int]]) -> Reading:
        """A reading of radii [S, P], as far as these points exist."""
        positions = [edge.positions(own, self._steps[edge.target]) for own in times]
        kept = torch.cat([chosen(own, at) for own, at in zip(values, positions, strict=True)])
        return Reading((edge.source, edge.target), kept, True, None, tuple(map(len, positions)))

    @property
    def _steps(self) -> dict[str, range]:
        """The steps of each layer, in its own order."""
        assert self._puller is not None
        return {layer.id: own for site in self._puller.program.sites for layer, own in _steps_of(site)}

    def _pull_together(
        self,
        stretch: _Stretch,
        cotangents: Mapping[str, Tensor],
        wanted: Collection[Edge] | None,
        *,
        is_each: bool = False,
    ) -> tuple[list[EdgeRows], list[Tensor]]:
        """The edges, and rows [S, P, R, n] of each, of several samples, each at steps of its own.

        Args:
            stretch: the samples.
            cotangents: by layer, the same [P, R, n] for all samples or, where `is_each`, [S, P, R, n].
            wanted: the edges to pull along; all of them where it is None.
            is_each: whether cotangents are each sample's own.
        """
        assert self._puller is not None
        puller = self._puller
        found: list[EdgeRows] = []

        def pull(given: Tree, run: Tree, steps: Tensor, own: Mapping[str, Tensor]) -> list[Tensor]:
            rows_of = own or cotangents
            found[:] = puller.pull(run_of(run), given, steps, lambda layer: rows_of[layer.id], wanted)
            return [edge.rows for edge in found]

        times, mapped = torch.tensor(stretch.times), cotangents if is_each else {}
        return found, self._together.each(pull, stretch.inputs, stretch.runs, times, mapped)

    @property
    def is_recurrent(self) -> bool:
        """Whether states go from step to step."""
        return any(layer.time_step for layer in self.layers.values())

    @property
    def reads_together(self) -> bool:
        """Whether the model could be mapped over samples so far."""
        return self._together.is_possible

    def inputs_of(self, sample: Sample) -> dict[str, Tensor]:
        """What the glue of a model reads; nothing where the model is one step."""
        is_step = is_streaming(self.model.prepared)
        return {} if is_step else self.model.tensors(sample.inputs | sample.initial)

    def puller(self, run: Run, inputs: Values) -> RowPuller:
        """Pulls rows through the model; made, and shown what the glue connects, on the first run."""
        if self._puller is None:
            program = self.model.program
            assert isinstance(program, (SequenceProgram, StreamingProgram))
            self._puller = RowPuller(program, self._generator)
            with torch.no_grad():
                self._puller.learn(run, inputs)
        return self._puller

    def _read_chain(
        self,
        samples: Sequence[Sample],
        times: Sequence[Sequence[int]],
        generators: Sequence[torch.Generator],
        with_derivative: bool,
    ) -> list[list[Reading]]:
        assert isinstance(self.model, FeedForward)
        program, layers = self.model.program, list(self.layers.values())
        feeds = stacked([self.model.feed(sample) for sample in samples])
        tree = self._together.each(lambda feed: recorded(program(*feed)), feeds)
        used = {
            target.id: self._looks(source, target, generators)
            for source, target in itertools.pairwise(layers)
        }
        with torch.no_grad():
            pulled = pull_chain(
                program, run_of(detached(tree)), layers, lambda _, target: used[target.id], self._wanted
            )
        sizes = (1,) * len(samples)
        blocks = self._chain_blocks(pulled, used, generators, with_derivative=with_derivative)
        if not with_derivative:
            return [[_bare(edge, block, sizes) for edge, block in zip(pulled, blocks, strict=True)]]
        rows = {
            edge.target: padded(block, self.layers[edge.target])
            for edge, block in zip(pulled, blocks, strict=True)
        }
        again = pull_chain(program, run_of(tree), layers, lambda _, target: rows[target.id], self._wanted)
        each = zip(pulled, blocks, again, strict=True)
        return [[_differentiable(edge, sizes, block, own.rows) for edge, block, own in each]]

    def _looks(self, source: Layer, target: Layer, generators: Sequence[torch.Generator]) -> Tensor:
        """Cotangents by which a block of a chain is seen: whole, or probed where it is too large."""
        size = target.state_size
        if self._is_dense(source, target):
            return torch.eye(size).expand(len(generators), -1, -1)
        return torch.stack([torch.randn(NUM_PROBES, size, generator=own) for own in generators])

    def _chain_blocks(
        self,
        edges: Sequence[EdgeRows],
        probes: Mapping[str, Tensor],
        generators: Sequence[torch.Generator],
        *,
        with_derivative: bool,
    ) -> list[Block]:
        """Of one point of each sample."""
        dense = [edge for edge in edges if self._is_dense(*self._ends(edge))]
        sizes = [[1] * len(generators)] * len(dense)
        found = iter(self.blocks.blocks(dense, sizes, generators, with_derivative=with_derivative))
        return [
            next(found) if self._is_dense(*self._ends(edge)) else self._probed(edge, probes[edge.target])
            for edge in edges
        ]

    def _probed(self, edge: EdgeRows, probes: Tensor) -> Block:
        """The gain of a block that is too large to be written out."""
        source, target = self._ends(edge)
        direction = probed_gain_direction(probes, edge.rows.detach().cpu(), target.state_size)
        check_finite(direction.value, source, target)
        rows, columns = list(range(target.state_size)), list(range(source.state_size))
        return Block(rows, columns, direction, False)

    def _ends(self, edge: EdgeRows) -> tuple[Layer, Layer]:
        return self.layers[edge.source], self.layers[edge.target]

    @staticmethod
    def _is_dense(source: Layer, target: Layer) -> bool:
        return source.state_size * target.state_size <= MAX_DENSE_ELEMENTS


def _are_same(kept: Values, values: Values) -> bool:
    return kept.keys() == values.keys() and all(torch.equal(kept[name], values[name]) for name in kept)


def _generator(seed: int, index: int) -> torch.Generator:
    """A sample's own probes."""
    return torch.Generator().manual_seed(int(np.random.default_rng((seed, index, 1)).integers(2**62)))


def _bytes_per_point(model: Model, layers: Sequence[Layer]) -> int:
    """What the local Jacobians of one step of one sample take, with what is computed on the way to them."""
    if isinstance(model, FeedForward):
        sizes = [min(a.state_size * b.state_size, MAX_DENSE_ELEMENTS) for a, b in itertools.pairwise(layers)]
        return 16 * sum(sizes)
    return 24 * sum(layer.state_size**2 for layer in layers)


def _steps_of(site: nn.Module) -> list[tuple[Layer, range]]:
    """Every layer of a site, with its steps in their order."""
    assert isinstance(site, SiteModule)
    return [(m.cell.layer, site.times()) for m in site.cells if isinstance(m, CellModule)]


def _bare(edge: EdgeRows, block: Block, sizes: Sequence[int]) -> Reading:
    key = edge.source, edge.target
    return Reading(key, block.direction.value, block.is_radius, None, tuple(sizes))


def _differentiable(edge: EdgeRows, sizes: Sequence[int], block: Block, rows: Tensor) -> Reading:
    """With the scalar d mean = sum over points of left^T dM right / P, of a block's own rows [P, 2, n].

    Each sample's mean is that of its points with a known derivative, as if it were read alone.
    """
    known = block.direction.is_known
    shares = [len(own) / len(known) / max(1, int(own.sum())) for own in torch.split(known, list(sizes))]
    share = torch.tensor(shares).repeat_interleave(torch.tensor(sizes)).to(rows)
    right = share[:, None, None] * block.direction.right.to(rows)
    scalar = (rows[:, :, block.columns] * right).sum()
    bare = _bare(edge, block, sizes)
    return replace(bare, derivative=scalar, is_differentiable=bool(known.any()))
