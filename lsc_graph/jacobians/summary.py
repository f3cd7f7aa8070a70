"""From the local Jacobians of all samples to each layer's radii and gains (theory section 3)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lsc_graph.jacobians.active import active_indices
from lsc_graph.jacobians.blocks import UnitBlocks, block_gain, block_radius
from lsc_graph.jacobians.causal import CausalSummary, causal_glue, is_causal_glue
from lsc_graph.jacobians.chain import NUM_PROBES, ChainBlock, chain_gain
from lsc_graph.jacobians.depth_maps import DepthMaps
from lsc_graph.jacobians.entries import among, own_blocks
from lsc_graph.jacobians.local import DepthBlocks, LocalJacobians, together
from lsc_graph.jacobians.points import Points
from lsc_graph.jacobians.probed import ProbedGain
from lsc_graph.jacobians.pushes import Pushes
from lsc_graph.jacobians.radius import gain
from lsc_graph.jacobians.readings import Reading, in_portions, is_identity, read, read_entries
from lsc_graph.jacobians.sampled_norms import Joint, SampledNorms, joint_gain, note_joint
from lsc_graph.jacobians.statistics import statistics_of_series
from lsc_graph.jacobians.time_maps import TimeMaps
from lsc_graph.layers.cells import CellGraph, Layer
from lsc_graph.results import DepthEdgeFacts, LayerFacts, RadiusOutcome
from lsc_graph.spectra.estimate import Estimate, Method
from lsc_graph.spectra.outcome import outcome_of
from lsc_graph.spectra.perturbed import block_bars, product_bars


@dataclass(frozen=True)
class HeldSteps:
    """A layer whose time Jacobian is the identity at some points; `others` is the mean radius elsewhere."""

    layer_id: str
    num_held: int
    num_points: int
    others: float


class Summary:
    """Collects radii and gains sample by sample.

    Args:
        exposed: per layer, the states that it shows to the layers above: the rows of the active block.
        time_axis: time in what layers without a cell put out, if the user has said so.
        method: the estimator of spectral radii.

    Attributes:
        entries: per layer whose states are a batch, where the elements of each entry lie [B, m]: radii and
            gains are those of single entries, as far as these do not meet.
        united: edges between such layers (or steps of one) of which the whole batch is looked at.
        probed: by edge the largest relative standard error of a gain that random products tell.
        flat: nodes that change with the states, but were seen to have no derivative.
        jumping: nodes that were seen to jump where the states change, each with the flags that make it jump.
    """

    def __init__(
        self,
        exposed: Mapping[str, frozenset[str]],
        time_axis: int | None = None,
        method: Method = Method.AUTO,
    ) -> None:
        self._method, self._generator = method, torch.Generator().manual_seed(0)
        self._exposed, self._time_axis = exposed, time_axis
        self.entries: Mapping[str, Tensor] = {}
        self.united: set[tuple[str, str]] = set()
        self.probed: dict[tuple[str, str], float] = {}
        self.flat: tuple[str, ...] = ()
        self.jumping: tuple[tuple[str, ...], ...] = ()
        self.causal = CausalSummary(time_axis)
        self._time: defaultdict[str, Points] = defaultdict(Points)
        self._depth: defaultdict[tuple[str, str], Points] = defaultdict(Points)
        self._joint: defaultdict[str, list[Tensor]] = defaultdict(list)
        self._any_seen = self._any_nonzero = False

    def empty(self) -> Summary:
        """One of the same layers, of nothing so far."""
        other = Summary(self._exposed, self._time_axis, self._method)
        other.entries = self.entries
        return other

    @property
    def is_cut(self) -> bool:
        """Whether there were local Jacobians and every one of them was exactly zero."""
        return self._any_seen and not self._any_nonzero

    def _note(self, is_nonzero: bool) -> None:
        self._any_seen = True
        self._any_nonzero |= is_nonzero

    def add(self, cells: CellGraph, local: LocalJacobians, changed: LocalJacobians | None = None) -> None:
        """One sample of a recurrent model; time statistics leave out the first step, with none before it.

        Args:
            cells: its cell graph.
            local: its local Jacobians.
            changed: the same, changed by as much as their error bars allow, where they have any.
        """
        layers = {layer.id: layer for layer in cells.layers}
        inner = {own: slice(1, None) if layer.time_step > 0 else slice(-1) for own, layer in layers.items()}
        for layer_id, matrices in local.time.items():
            other = None if changed is None else changed.time.get(layer_id)
            kept = inner[layer_id]
            self._add_time(layer_id, matrices[kept], None if other is None else other[kept])
        for layer_id, units in local.units.items():
            like = None if changed is None else changed.units.get(layer_id)
            self._add_units(layer_id, units.at(inner[layer_id]), like and like.at(inner[layer_id]))
        for layer_id, time_maps in local.time_maps.items():
            moved = None if changed is None else changed.time_maps.get(layer_id)
            self._add_time_maps(layer_id, time_maps.at(inner[layer_id]), moved and moved.at(inner[layer_id]))
        others = {} if changed is None else {own.ends: own for own in changed.maps}
        joint: Joint = defaultdict(list)
        by_products = [
            self._add_maps(own, layers[own.edge.source], layers[own.edge.target], others.get(own.ends))
            for own in local.maps
        ]
        note_joint(joint, by_products)
        self._add_every_push(layers, local.pushes, () if changed is None else changed.pushes, joint)
        self._leave_out_glue(layers, (*local.maps, *local.pushes))
        edges = {} if changed is None else {own.ends: own.blocks for own in together(changed.depth)}
        for depth in together(local.depth):
            self._add_depth(depth, layers, cells.num_steps, joint, edges.get(depth.ends))
        self._add_joint(joint)

    def _leave_out_glue(self, layers: Mapping[str, Layer], edges: Sequence[DepthMaps | Pushes]) -> None:
        """What lies between two layers and is causal over time, where it is known by products alone."""
        pairs: defaultdict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        for own in edges:
            source, target, times = own.ends
            if source != target and layers[source].time_step == layers[target].time_step:
                pairs[source, target] += times
        for (_, target), together_read in pairs.items():
            if is_causal_glue(together_read, layers[target].time_step):
                self.causal.leave_out(target)

    def _add_joint(self, joint: Joint) -> None:
        """The gains of all edges into each layer at each time."""
        gains: defaultdict[str, list[float]] = defaultdict(list)
        for (target_id, _), blocks in sorted(joint.items(), key=lambda item: item[0]):
            gain_of_all = joint_gain(blocks)
            if gain_of_all is not None:
                gains[target_id].append(gain_of_all)
        for target_id, values in gains.items():
            self._joint[target_id].append(torch.tensor(values, dtype=torch.float64))

    def _add_time(self, layer_id: str, matrices: Tensor, changed: Tensor | None) -> None:
        """Dense time Jacobians of a layer [P, n, n]."""
        parts = self._by_entry(matrices, layer_id, layer_id)
        others = None if changed is None else self._by_entry(changed, layer_id, layer_id)
        for part, own in _beside(parts, others):
            self._take(self._time[layer_id], read(part, self._method, changed=own))

    def _take(self, points: Points, reading: Reading) -> None:
        self._note(reading.is_nonzero)
        points.add(reading)

    def _add_depth(
        self,
        depth: DepthBlocks,
        layers: Mapping[str, Layer],
        num_steps: int,
        joint: Joint,
        changed: Tensor | None = None,
    ) -> None:
        """The depth Jacobians between two layers; their norms, for the gain of all edges, go into `joint`."""
        source, target = layers[depth.edge.source], layers[depth.edge.target]
        rows, columns, words = self._active(depth.blocks, source, target)
        active = _part(depth.blocks, rows, columns)
        parts = self._by_entry(active, source.id, target.id, rows, columns)
        if parts[0].shape != active.shape:
            words += f", of each of {len(parts)} entries {parts[0].shape[1]} x {parts[0].shape[2]}"
        points = self._depth[source.id, target.id]
        points.block = words
        times = [time for _, time in depth.pairs]
        points.is_timed &= len(set(times)) == len(times)
        self._note(bool(depth.blocks.any()))
        others = None if changed is None else _part(changed, rows, columns)
        other_parts = None if others is None else self._by_entry(others, source.id, target.id, rows, columns)
        for part, own in _beside(parts, other_parts):
            points.add(read(part, self._method, with_norm=True, changed=own))
        if source.time_step == target.time_step:
            piece = causal_glue(source.id, target.id, depth.pairs, active, target.time_step, num_steps)
            if piece is not None:
                self.causal.add_piece(piece)
        norms = torch.stack([_norms(part) for part in parts], 1)
        for (_, time), own in zip(depth.pairs, norms.tolist(), strict=True):
            joint[target.id, time].append((tuple(own), *parts[0].shape[1:]))

    def _add_units(self, layer_id: str, units: UnitBlocks, changed: UnitBlocks | None) -> None:
        """The time Jacobians of a layer whose units do not meet."""
        self._note(bool(units.blocks.any()))
        entries = self.entries.get(layer_id)
        others = None if changed is None else changed.by_entry(entries)
        for part, own in _beside(units.by_entry(entries), others):
            estimate = block_radius(part)
            if own is not None:
                estimate = self._time[layer_id].within(estimate, block_bars(part, own - part))
            self._time[layer_id].estimates.append(estimate)
            self._time[layer_id].gain.append(block_gain(part).cpu())
            self._time[layer_id].held.append(is_identity(part.flatten(0, 1)).reshape(part.shape[:2]).all(1))

    def _add_time_maps(self, layer_id: str, maps: TimeMaps, changed: TimeMaps | None) -> None:
        """The time Jacobians of a layer that is too large for dense ones."""
        if self._add_entries(layer_id, maps):
            return
        gains = self._probed(layer_id, layer_id, maps.gain(NUM_PROBES, self._generator))
        self._note(bool(gains.any()))
        estimate = maps.radius(self._method)
        if changed is not None:
            shape = maps.num_points, maps.module.cell.layer.state_size
            bars = product_bars(estimate, lambda given: changed.pull_all(given) - maps.pull_all(given), shape)
            estimate = self._time[layer_id].within(estimate, bars)
        self._time[layer_id].estimates.append(estimate)
        self._time[layer_id].gain.append(gains)

    def _add_entries(self, layer_id: str, maps: TimeMaps) -> bool:
        """The same of a batch, whose entries are small enough for dense ones; False if they are not."""
        entries = self.entries.get(layer_id)
        if entries is None:
            return False
        found = read_entries(
            maps.pull_rows, maps.like, range(maps.num_points), entries, entries, self._method
        )
        if found is None:
            self.united.add((layer_id, layer_id))
            return False
        for reading in found:
            self._take(self._time[layer_id], reading)
        return True

    def _add_maps(
        self, maps: DepthMaps, source: Layer, target: Layer, changed: DepthMaps | None = None
    ) -> SampledNorms:
        """A depth edge that is known by its products: radius by Krylov iteration, gain by random probes.

        Returns:
            Norms, for the gain of all edges.
        """
        points = self._depth[source.id, target.id]
        points.is_timed = False
        numbers = maps.sampled()
        if source.id in self.entries and target.id in self.entries:
            out, into = self.entries[target.id], self.entries[source.id]
            found = read_entries(maps.pull, maps.like, numbers, out, into, self._method, with_norm=True)
            if found is not None:
                shape = f"{out.shape[1]} x {into.shape[1]}"
                points.block = f"all -> all, of each of {len(found)} entries {shape}"
                for reading in found:
                    self._take(points, reading)
                gains = torch.stack([reading.gain for reading in found])
                each = out.shape[1], into.shape[1]
                return SampledNorms.of(target.id, maps.pairs, numbers, gains, each)
            self.united.add((source.id, target.id))
        rows, columns = maps.shape
        points.block = f"all -> all, {rows} x {columns}"
        gains = self._probed(source.id, target.id, maps.gain(numbers, NUM_PROBES, self._generator))
        points.gain.append(gains)
        self._note(bool(gains.any()))
        if rows == columns:
            estimate = maps.radius(numbers)
            if changed is not None:
                bars = product_bars(
                    estimate,
                    lambda given: changed.pull_all(numbers, given) - maps.pull_all(numbers, given),
                    (len(numbers), rows),
                )
                estimate = points.within(estimate, bars)
            points.estimates.append(estimate)
        return SampledNorms.of(target.id, maps.pairs, numbers, gains, maps.shape)

    def add_pushes(
        self, cells: CellGraph, pushes: Sequence[Pushes], changed: Sequence[Pushes] | None
    ) -> None:
        """One sample of a feed-forward model that is known by pushes; `changed` as of `add`."""
        joint: Joint = defaultdict(list)
        self._add_every_push({layer.id: layer for layer in cells.layers}, pushes, changed or (), joint)
        self._add_joint(joint)

    def _add_every_push(
        self,
        layers: Mapping[str, Layer],
        pushes: Sequence[Pushes],
        changed: Sequence[Pushes],
        joint: Joint,
    ) -> None:
        others = {own.ends: own for own in changed}
        found = [
            self._add_pushes(own, layers[own.source], layers[own.target], others.get(own.ends))
            for own in pushes
        ]
        note_joint(joint, [own for own in found if own is not None])

    def _add_pushes(
        self, own: Pushes, source: Layer, target: Layer, changed: Pushes | None
    ) -> SampledNorms | None:
        """An edge of which directions tell all: radius by Krylov iteration, gain by random directions.

        Returns:
            Norms of a depth edge, for the gain of all of them.
        """
        if source is target and not source.has_time_edges:
            return None
        points = self._time[source.id] if source is target else self._depth[source.id, target.id]
        points.is_timed, numbers = False, own.sampled()
        rows, columns = own.shape
        points.block = f"all -> all, {rows} x {columns}"
        if source.id in self.entries and target.id in self.entries:
            self.united.add((source.id, target.id))
        if (matrices := own.dense(numbers)) is not None:
            other = None if changed is None else changed.dense(numbers)
            if source is not target:
                chosen_rows, chosen, points.block = self._active(matrices, source, target)
                matrices = _part(matrices, chosen_rows, chosen)
                rows, columns = matrices.shape[1:]
                other = None if other is None else _part(other, chosen_rows, chosen)
            with_norm = source is not target
            self._take(points, read(matrices, self._method, with_norm=with_norm, changed=other))
            gains = points.gain[-1]
        else:
            gains = self._probed(source.id, target.id, own.gain(numbers, NUM_PROBES, self._generator))
            points.gain.append(gains)
            self._note(bool(gains.any()))
            if rows == columns:
                estimate, bars = own.radius(numbers, changed)
                points.estimates.append(points.within(estimate, bars))
        if source is target:
            return None
        return SampledNorms.of(target.id, own.pairs, numbers, gains, (rows, columns))

    def add_chain(
        self,
        blocks: tuple[ChainBlock, ...],
        shapes: Sequence[Sequence[int]],
        generator: torch.Generator,
        changed: tuple[ChainBlock, ...] | None = None,
    ) -> None:
        """One sample of a feed-forward model; `shapes` are those of its boundaries, `changed` as of `add`."""
        self.causal.add(blocks, shapes, generator)
        for block, other in zip(blocks, changed or [None] * len(blocks), strict=True):
            points = self._depth[block.source, block.target]
            rows, columns = block.shape
            points.block = f"{columns} -> {rows}"
            if block.matrix is not None:
                parts = self._by_entry(block.matrix[None], block.source, block.target)
                others = (
                    None
                    if other is None or other.matrix is None
                    else self._by_entry(other.matrix[None], block.source, block.target)
                )
                for part, own in _beside(parts, others):
                    points.add(read(part, self._method, with_norm=True, changed=own))
                value = torch.stack([gain(part[0]) for part in parts]).mean()
            else:
                (value,) = self._probed(block.source, block.target, chain_gain(block, generator))
                points.gain.append(value)
            self._note(bool(value > 0))
            self._joint[block.target].append(value.cpu().reshape(1))

    def _probed(self, source: str, target: str, found: ProbedGain) -> Tensor:
        """Gains along an edge, their error noted where they are not exact."""
        error = float(found.errors.max()) if found.errors.numel() else 0.0
        if error > 0:
            self.probed[source, target] = max(error, self.probed.get((source, target), 0.0))
        return found.values

    def _by_entry(
        self,
        matrices: Tensor,
        source: str,
        target: str,
        rows: Sequence[int] | None = None,
        columns: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """The blocks of single entries of a batch; the whole, where there is none or where entries meet.

        Args:
            matrices: [P, n_out, n_in].
            source, target: the layers that they lead between.
            rows, columns: which elements of the states they are of; all of them if left out.
        """
        if source not in self.entries or target not in self.entries:
            return [matrices]
        out, into = self.entries[target], self.entries[source]
        out = out if rows is None else among(out, rows)
        into = into if columns is None else among(into, columns)
        found = own_blocks(matrices, out, into)
        if found is None:
            self.united.add((source, target))
        return [matrices] if found is None else found

    def _active(self, blocks: Tensor, source: Layer, target: Layer) -> tuple[list[int], list[int], str]:
        """The sub-block of M_depth between the states that carry the gradient in depth."""
        return active_indices(blocks, source, target, self._exposed.get(target.id, frozenset()))

    def held(self) -> tuple[HeldSteps, ...]:
        """Layers whose state stays exactly as it is at some of the points, but not at all of them."""
        found = []
        for layer_id, points in self._time.items():
            if not points.held:
                continue
            held, estimate = torch.cat(points.held).cpu(), Estimate.joined(points.estimates)
            others = estimate.values[~held & estimate.converged]
            if bool(held.any()) and others.numel():
                found.append(HeldSteps(layer_id, int(held.sum()), held.numel(), float(others.mean())))
        return tuple(found)

    def outcomes(self) -> tuple[RadiusOutcome, ...]:
        """How the radii of every time and depth edge were found, and at how many points they were not."""
        edges = {(layer_id, layer_id): points for layer_id, points in self._time.items()} | self._depth
        return tuple(
            outcome_of(source, target, Estimate.joined(points.estimates), points.bars)
            for (source, target), points in edges.items()
            if points.estimates
        )

    def layers(self, cells: CellGraph) -> tuple[LayerFacts, ...]:
        """The facts of every layer."""
        return tuple(self._layer(cells, layer) for layer in cells.layers)

    def _layer(self, cells: CellGraph, layer: Layer) -> LayerFacts:
        sources = tuple(dict.fromkeys(e.source for e in cells.depth_edges if e.target == layer.id))
        edges = tuple(self._edge(source, layer.id) for source in sources)
        joint = self._joint.get(layer.id)
        time = self._time.get(layer.id, Points())
        return LayerFacts(
            id=layer.id,
            name=layer.name,
            recurrence=layer.recurrence,
            state_size=layer.state_size,
            time_radius=time.statistics("radius"),
            time_gain=time.statistics("gain"),
            depth_from=sources,
            depth_times=tuple(cells.times_read(source, layer) for source in sources),
            depth_radius=edges[0].radius if len(edges) == 1 else None,
            depth_gain=statistics_of_series(joint) if joint else None,
            depth_edges=edges,
        )

    def _edge(self, source: str, target: str) -> DepthEdgeFacts:
        points = self._depth[source, target]
        value = points.statistics("gain")
        assert value is not None
        return DepthEdgeFacts(
            source, points.block, points.statistics("radius"), value, points.statistics("norm")
        )


def _beside(parts: Sequence[Tensor], changed: Sequence[Tensor] | None) -> list[tuple[Tensor, Tensor | None]]:
    """Matrices with the same ones changed, where these are known, and are as many."""
    is_same = changed is not None and [own.shape for own in parts] == [own.shape for own in changed]
    return list(zip(parts, changed if changed is not None and is_same else [None] * len(parts), strict=True))


def _norms(blocks: Tensor) -> Tensor:
    """Frobenius norms [P] of blocks [P, m, n], on the CPU."""
    return torch.cat([torch.linalg.matrix_norm(own.double()).cpu() for own in in_portions(blocks)])


def _part(blocks: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Some rows and columns of blocks [P, n_out, n_in]; no copy where they are neighbours."""
    for axis, chosen in ((1, rows), (2, columns)):
        if chosen and list(chosen) == list(range(chosen[0], chosen[0] + len(chosen))):
            blocks = blocks.narrow(axis, chosen[0], len(chosen))
        else:
            blocks = blocks.index_select(axis, torch.tensor(chosen, dtype=torch.long, device=blocks.device))
    return blocks
