"""ONNX nodes before, between and behind recurrences, at the times that their values have: seen in a run.

Such a node computes all times at once. Its elements are told apart by what they are computed from: those
that read the same nodes at the same times are one node of the grid, as if every time had been written out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from lsc_graph.counting.connect import INPUT, OUTPUT, Probe
from lsc_graph.counting.stretch import stretched
from lsc_graph.errors import LimitExceededError
from lsc_graph.grid.unroll import MAX_GRID_NODES, GridNode
from lsc_graph.layers.cells import CellGraph, DepthEdge
from lsc_graph.prepare import Prepared
from lsc_graph.recurrence.dataflow import inputs_of
from lsc_graph.recurrence.layered.row_ways import ELEMENTWISE
from lsc_graph.recurrence.site import RecurrentSite, StepSequence
from lsc_graph.to_torch.program import reads_of
from lsc_graph.to_torch.segment import Segment

Array = np.ndarray[Any, np.dtype[Any]]
READ, WRITTEN = "read:", "written:"
"""What the ids of ports begin with: what a step reads of the main graph, and what it writes there."""

_NONE = -1
_MAX_ELEMENTS = 2**26


@dataclass(frozen=True)
class Between:
    """Edges among inputs, outputs, ports and main-graph nodes, and each such node's label in the grid."""

    edges: tuple[tuple[GridNode, GridNode], ...]
    labels: Mapping[str, ir.Node]


def label(node: ir.Node, prefix: str = "") -> str:
    """A node's layer in the grid."""
    return prefix + (node.name or str(node.outputs[0].name))


def nodes_between(prepared: Prepared, num_steps: int, time_axis: int | None) -> Between:
    """The main graph of a model with recurrences, over any number of steps.

    Raises:
        UsageError: how its times are connected is known for the model's own number of steps only.
        ConversionError: a node has no torch counterpart.
        LimitExceededError: there would be too many elements to follow.
    """
    with torch.no_grad():
        tracker = _Tracker(prepared, time_axis)
        tracker.follow()
    _check_size(len(tracker.labels) * num_steps)
    return Between(tuple(_over(tracker, num_steps)), tracker.labels)


def _check_size(num_nodes: int) -> None:
    if num_nodes > MAX_GRID_NODES:
        raise LimitExceededError(
            "The unrolled graph would be too large",
            got=f"{num_nodes} nodes outside the steps",
            expected=f"at most {MAX_GRID_NODES}",
            do="ask for fewer steps",
        )


def _over(tracker: _Tracker, num_steps: int) -> Iterator[tuple[GridNode, GridNode]]:
    """The edges at another number of steps."""
    if num_steps == tracker.num_steps:
        yield from tracker.edges
        return
    times: dict[tuple[str, str], set[tuple[int, int]]] = {}
    for tail, head in tracker.edges:
        times.setdefault((tail.layer, head.layer), set()).add((tail.time, head.time))
    for (source, target), own in times.items():
        for before, after in _carried_over(source, target, own, tracker.num_steps, num_steps):
            yield GridNode(source, before), GridNode(target, after)


def _carried_over(
    source: str, target: str, pairs: set[tuple[int, int]], own: int, num_steps: int
) -> Iterator[tuple[int, int]]:
    """Pairs of times at another number of steps: most steps at one lag keep their distances to both ends.

    That the ends are no rule of their own is seen where layers are connected, or refused there.
    """
    rest = set(pairs)
    for lag, count in Counter(after - before for before, after in pairs).items():
        starts = sorted(before for before, after in pairs if after - before == lag)
        if 2 * count > own and starts[-1] - starts[0] == count - 1:
            rest -= {(time, time + lag) for time in starts}
            yield from ((time, time + lag) for time in range(starts[0], starts[-1] + 1 + num_steps - own))
    if rest:
        edge = DepthEdge(source, target, time_pairs=tuple(sorted(rest)))
        for carried in stretched(CellGraph((), (edge,), own), num_steps).depth_edges:
            yield from carried.time_pairs or ()


@dataclass
class _Tracker:
    """Which grid node each element of each main-graph value belongs to: a number, or none."""

    prepared: Prepared
    time_axis: int | None
    grid: list[GridNode] = field(default_factory=list)
    edges: dict[tuple[GridNode, GridNode], None] = field(default_factory=dict)
    labels: dict[str, ir.Node] = field(default_factory=dict)
    owners: dict[ir.Value, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.probe = Probe(self.prepared, 0, self.time_axis)
        self.num_steps = self.probe.num_steps
        self.graph = self.prepared.findings.model.graph
        self.values: dict[str, Tensor] = dict(self.probe.run.values or {}) | self.probe.inputs
        self.random = np.random.default_rng(0)
        self.marks = np.zeros(0, np.int64)
        self.followed = 0

    def follow(self) -> None:
        """All sources, the nodes behind them in order, and who reads them."""
        for value in self.graph.inputs:
            if value.name in self.probe.floats:
                self._start(value, INPUT + str(value.name), self.probe.input_axis(str(value.name)))
        known = {str(value.name): value for node in self.graph for value in node.outputs}
        for site in self.prepared.findings.sites:
            self._start_written(site, known)
        needed = self._needed()
        for node in self.graph:
            is_source = any(value in self.owners for value in node.outputs)
            if node in needed and not is_source and any(value in self.owners for value in inputs_of(node)):
                self._pass(node)
        known |= {str(value.name): value for value in self.graph.inputs}
        for site in self.prepared.findings.sites:
            self._read_by(site, known)
        for value in self.graph.outputs:
            self._put_out(value)

    def _needed(self) -> set[ir.Node]:
        names = {name for site in self.prepared.findings.sites for name in reads_of(site)}
        pending = [v.producer() for v in self.graph.outputs]
        pending += [v.producer() for node in self.graph for v in node.outputs if v.name in names]
        found: set[ir.Node] = set()
        while pending:
            node = pending.pop()
            if node is not None and node not in found:
                found.add(node)
                pending += [value.producer() for value in inputs_of(node)]
        return found

    def _new(self, node: GridNode) -> int:
        self.grid.append(node)
        _check_size(len(self.grid))
        if len(self.grid) > len(self.marks):
            fresh = self.random.integers(-(2**62), 2**62, len(self.grid) + 1000)
            self.marks = np.concatenate([self.marks, fresh])
        return len(self.grid) - 1

    def _start(self, value: ir.Value, layer: str, axis: int | None, *, time: int = 0) -> None:
        """A source with one grid node for each index of an axis, or a single one."""
        shape = self.values[str(value.name)].shape
        if axis is None:
            self.owners[value] = np.full(shape, self._new(GridNode(layer, time)))
            return
        numbers = np.array([self._new(GridNode(layer, index)) for index in range(shape[axis])])
        self.owners[value] = np.broadcast_to(np.expand_dims(numbers, _others(shape, axis)), shape).copy()

    def _start_written(self, site: RecurrentSite, known: Mapping[str, ir.Value]) -> None:
        for sequence in site.outputs:
            if sequence.main in known and self._is_float(sequence.main):
                self._start(known[sequence.main], WRITTEN + sequence.main, sequence.axis)
                if sequence.reverse != site.is_reverse:
                    self.owners[known[sequence.main]] = np.flip(
                        self.owners[known[sequence.main]], sequence.axis
                    )
        last = 0 if site.is_reverse else self.num_steps - 1
        for name in (state.final for state in site.states if state.final in known):
            assert name is not None
            if known[name] not in self.owners and self._is_float(name):
                self._start(known[name], WRITTEN + name, None, time=last)

    def _is_float(self, name: str) -> bool:
        return name in self.values and self.values[name].is_floating_point()

    def _pass(self, node: ir.Node) -> None:
        """The grid nodes of one main-graph node, and the edges that lead there."""
        outputs = [value for value in node.outputs if value.uses() or value.is_graph_output()]
        names = [str(value.name) for value in outputs]
        read = list(dict.fromkeys(value for value in inputs_of(node) if self._is_known(value)))
        segment = Segment(
            self.graph,
            [str(value.name) for value in read],
            names,
            opsets=dict(self.prepared.findings.model.opset_imports),
            parameters=self.probe.parameters,
        )
        given = [self.values[str(value.name)] for value in read]
        self.values |= dict(zip(names, segment(*given), strict=True))
        floats = [value for value in outputs if self._is_float(str(value.name))]
        carrying = [value for value in read if value in self.owners]
        if not floats or not carrying:
            return
        if node.op_type in ELEMENTWISE and not node.domain:
            marks, origins = self._broadcast(floats[0], carrying)
        else:
            marks, origins = self._by_derivatives(segment, read, floats)
        self._settle(node, floats, marks, origins)

    def _is_known(self, value: ir.Value) -> bool:
        """Whether it is computed from an input or by a recurrence; all else comes with the segment."""
        return value.name in self.values and not value.is_initializer()

    def _broadcast(self, value: ir.Value, read: Sequence[ir.Value]) -> tuple[Array, Array]:
        """For each element of an elementwise result, a mark of what it reads, and that."""
        shape = tuple(self.values[str(value.name)].shape)
        owners = np.stack([np.broadcast_to(self.owners[own], shape).reshape(-1) for own in read])
        return self._marked(owners).sum(0), owners

    def _marked(self, owners: Array) -> Array:
        return np.where(owners == _NONE, 0, self.marks[owners])

    def _by_derivatives(
        self, segment: Segment, read: Sequence[ir.Value], floats: Sequence[ir.Value]
    ) -> tuple[Array, Array]:
        """The same for any other operator: what changes with the elements of one grid node."""
        given = [self.values[str(value.name)] for value in read]
        moving = [index for index, value in enumerate(given) if value.is_floating_point()]
        places = [segment.outputs.index(str(value.name)) for value in floats]

        def outputs(*values: Tensor) -> tuple[Tensor, ...]:
            full = list(given)
            for index, value in zip(moving, values, strict=True):
                full[index] = value
            computed = segment(*full)
            return tuple(computed[place] for place in places)

        owners = [self.owners.get(read[index]) for index in moving]
        numbers = np.unique(np.concatenate([own.reshape(-1) for own in owners if own is not None]))
        numbers = numbers[numbers != _NONE]
        size = sum(self.values[str(value.name)].numel() for value in floats)
        self._check_followed(size * len(numbers))
        primals = tuple(given[index] for index in moving)
        origins = np.full((len(numbers), size), _NONE, np.int32)
        for row, number in enumerate(numbers):
            tangents = tuple(
                torch.zeros_like(value) if own is None else self._draw(value, own == number)
                for value, own in zip(primals, owners, strict=True)
            )
            moved = torch.func.jvp(outputs, primals, tangents)[1]
            changed = np.concatenate([value.reshape(-1).numpy() != 0 for value in moved])
            origins[row, changed] = number
        return self._marked(origins).sum(0), origins

    def _draw(self, value: Tensor, mask: Array) -> Tensor:
        drawn = torch.randn(value.shape, generator=self.probe.generator, dtype=value.dtype)
        return drawn * torch.from_numpy(mask)

    def _check_followed(self, num_elements: int) -> None:
        self.followed += num_elements
        if self.followed > _MAX_ELEMENTS:
            raise LimitExceededError(
                "What lies between the recurrences is too large to be followed through its nodes",
                got=f"over {_MAX_ELEMENTS} pairs of elements and times",
                do="leave out --nodes, or ask for fewer steps",
            )

    def _settle(self, node: ir.Node, floats: Sequence[ir.Value], marks: Array, origins: Array) -> None:
        """One grid node for each mark."""
        kinds, first, groups = np.unique(marks, return_index=True, return_inverse=True)
        members = [sorted({int(n) for n in origins[:, at]} - {_NONE}) for at in first]
        sizes = [self.values[str(value.name)].numel() for value in floats]
        pieces = np.split(groups, np.cumsum(sizes)[:-1])
        shapes = [tuple(self.values[str(value.name)].shape) for value in floats]
        arrays = [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]
        own = [index for index in np.argsort(first).tolist() if members[index]]
        numbers = np.full(len(kinds), _NONE)
        for index, grid_node in zip(own, self._placed(node, own, members, arrays), strict=True):
            numbers[index] = self._new(grid_node)
            self.edges |= dict.fromkeys((self.grid[tail], grid_node) for tail in members[index])
        for value, array in zip(floats, arrays, strict=True):
            self.owners[value] = numbers[array]

    def _placed(
        self, node: ir.Node, own: Sequence[int], members: Sequence[Sequence[int]], arrays: Sequence[Array]
    ) -> Iterator[GridNode]:
        """Where each group stands in the grid: at its index along an axis, or at the last time it reads.

        Where several are at one time, those that read the same relative to their time have one name.
        """
        found = next((times for array in arrays if (times := self._indices(array, own)) is not None), None)
        times = found or [max(self.grid[number].time for number in members[index]) for index in own]
        is_one = len(set(times)) == len(times)
        kinds: dict[Hashable, str] = {}
        for index, time in zip(own, times, strict=True):
            tails = (self.grid[number] for number in members[index])
            kind = None if is_one else frozenset((tail.layer, tail.time - time) for tail in tails)
            number = "" if kind in kinds or not kinds else f".{len(kinds) + 1}"
            name = kinds.setdefault(kind, label(node) + number)
            self.labels[name] = node
            yield GridNode(name, time)

    def _indices(self, array: Array, own: Sequence[int]) -> list[int] | None:
        """The index of each group along an axis as long as time, if no two have the same, nor one has two."""
        for axis in (axis for axis, size in enumerate(array.shape) if size == self.num_steps):
            rows = np.moveaxis(array, axis, 0).reshape(self.num_steps, -1)
            at = [set(np.nonzero((rows == index).any(1))[0].tolist()) for index in own]
            single = [next(iter(found)) for found in at if len(found) == 1]
            if len(single) == len(own) == len(set(single)):
                return single
        return None

    def _read_by(self, site: RecurrentSite, known: Mapping[str, ir.Value]) -> None:
        """Edges to the ports of a step: slices at their times, everything else once."""
        once = [*site.captures.items(), *((s.before, s.initial) for s in site.states if s.initial)]
        for sequence in site.inputs:
            if (owners := self._owners(known, sequence.main)) is not None:
                self._read_along(owners, site, sequence)
        for body, main in once:
            if (owners := self._owners(known, main)) is not None:
                self._connect(owners, GridNode(port(site, body), 0))

    def _owners(self, known: Mapping[str, ir.Value], name: str) -> Array | None:
        return self.owners.get(known[name]) if name in known else None

    def _read_along(self, owners: Array, site: RecurrentSite, sequence: StepSequence) -> None:
        read = np.moveaxis(owners, sequence.axis, 0)
        for time, own in enumerate(read if sequence.reverse == site.is_reverse else read[::-1]):
            self._connect(own, GridNode(port(site, sequence.body), time))

    def _connect(self, owners: Array, head: GridNode) -> None:
        read = (int(number) for number in np.unique(owners) if number != _NONE)
        self.edges |= dict.fromkeys((self.grid[number], head) for number in read)

    def _put_out(self, value: ir.Value) -> None:
        """Edges to an output: at each index along its time, or all at the end."""
        owners, layer = self.owners.get(value), OUTPUT + str(value.name)
        if owners is None:
            return
        axes = self.probe.time_axes(str(value.name), self.values[str(value.name)])
        along = {axis: [np.unique(own) for own in np.moveaxis(owners, axis, 0)] for axis in axes}
        if not along:
            self._connect(owners, GridNode(layer, self.num_steps - 1))
            return
        for time, read in enumerate(min(along.values(), key=lambda own: sum(map(len, own)))):
            self._connect(read, GridNode(layer, time))


def port(site: RecurrentSite, body: str) -> str:
    """The id of what a step reads of the main graph by that name."""
    return f"{READ}{site.id}/{body}"


def _others(shape: Iterable[int], axis: int) -> tuple[int, ...]:
    rank = len(tuple(shape))
    return tuple(index for index in range(rank) if index != axis % rank)
