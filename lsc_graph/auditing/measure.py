"""One sample after another through the torch view: parity, local Jacobians, growth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from lsc_graph.auditing.rounding import inputs_rounded_otherwise, weights_rounded_otherwise
from lsc_graph.canonical.rewiring import RECURRENT_OPS
from lsc_graph.errors import ParityError
from lsc_graph.grid.unroll import GridNode
from lsc_graph.jacobians.chain import (
    chain_blocks,
    chain_edges,
    input_blocks,
    pushed_blocks,
    too_many_in_chain,
)
from lsc_graph.jacobians.grid import EdgeMap, edge_maps, pushed_edges
from lsc_graph.jacobians.local import LocalJacobians, local_jacobians
from lsc_graph.jacobians.summary import Summary
from lsc_graph.layers.cells import CellGraph
from lsc_graph.prepare import Prepared, is_streaming
from lsc_graph.recurrence.find import CarriedState
from lsc_graph.recurrence.not_weights import running_statistics
from lsc_graph.running.reference import Array, Reference, with_outputs
from lsc_graph.running.sampling import Sample
from lsc_graph.spectra.handed import handed
from lsc_graph.to_torch.loop import CellModule, SiteModule
from lsc_graph.to_torch.parity import ParityCheck, Tolerance, first_difference, on_host
from lsc_graph.to_torch.program import ChainProgram, Run, SequenceProgram, StreamingProgram, writes_of
from lsc_graph.to_torch.segment import BlackBoxUse, Parameters, Segment

T = TypeVar("T")
Change = Callable[[onnx.ModelProto], onnx.ModelProto]
HALF_TOLERANCE = Tolerance(rtol=2e-2, atol=1e-2)
"""Agreement that a 16-bit model, run in float32, can have."""


def measured_model(
    prepared: Prepared,
    device: str,
    generator: torch.Generator,
    black_box: BlackBoxUse = BlackBoxUse.NEVER,
    *,
    is_double: bool = False,
) -> Sequences | Streaming | FeedForward:
    """The torch view of a prepared model, of the kind that fits it; in double precision, if asked for."""
    if prepared.chain is not None:
        return FeedForward(prepared, device, generator, black_box, is_double)
    if is_streaming(prepared):
        return Streaming(prepared, device, generator, black_box, is_double)
    return Sequences(prepared, device, generator, black_box, is_double)


class _Model:
    """What the three kinds share."""

    def __init__(
        self,
        prepared: Prepared,
        device: str,
        generator: torch.Generator,
        black_box: BlackBoxUse = BlackBoxUse.NEVER,
        is_double: bool = False,
    ) -> None:
        self.prepared, self.device, self.generator = prepared, device, generator
        statistics = running_statistics(prepared.findings.model.graph)
        self.parameters = Parameters(black_box, statistics, is_double=is_double)
        self.reference = Reference(prepared.reference)
        self.constants = prepared.plan.constants

    def changed(self, take: Callable[[], T]) -> T | None:
        """Derivatives again, changed by as much as the error bars of differences allow, if there are any."""
        differences = self.parameters.differences
        if not differences.parts:
            return None
        with differences.changed():
            return take()

    def tensors(self, arrays: Mapping[str, Array]) -> dict[str, Tensor]:
        """Arrays on the device, 16-bit floats as float32, or all floats as float64."""
        device = torch.device(self.device)

        def own(value: Array) -> Array:
            is_float = self.parameters.is_double and value.dtype.kind == "f"
            return value.astype(np.float64) if is_float else _single(value)

        return {
            name: handed(torch.from_numpy(np.asarray(own(value), order="C")), device)
            for name, value in arrays.items()
        }

    def _local(
        self, program: SequenceProgram | StreamingProgram, run: Run, inputs: dict[str, Tensor]
    ) -> tuple[LocalJacobians, LocalJacobians | None]:
        """The local Jacobians along one run, and the same as `changed`."""

        def take() -> LocalJacobians:
            return local_jacobians(program, run, inputs, self.generator)

        own, changed = take(), self.changed(take)
        return own, changed and changed.within(self.parameters.differences.changed)

    def compare_outputs(self, reference: Reference, sample: Sample, run: Run, check: ParityCheck) -> None:
        """Compare what a run put out with a model in ONNX Runtime: this one, or a rewritten one."""
        feed = sample.inputs | sample.initial | self.constants
        check.compare_all(run.outputs, reference.run(feed))

    def values(self, sample: Sample, name: str, change: Change = lambda proto: proto) -> Array:
        """A value of the model that was compared, in ONNX Runtime; of a changed model, if need be."""
        raise NotImplementedError

    def refusal(self, sample: Sample, check: ParityCheck, first_difference: str | None) -> ParityError:
        """The error that says what differs; it may be rounding that the model itself makes large."""
        name, error = check.failures[0]
        if not np.isfinite(error):
            return check.refusal(first_difference)
        other = replace(sample, inputs=inputs_rounded_otherwise(sample.inputs))
        with np.errstate(invalid="ignore"):
            own = self.values(sample, name).astype(float)
            # What inputs are rounded by may die away, where each step rounds anew, as weights do.
            others = self.values(other, name), self.values(sample, name, weights_rounded_otherwise)
            moved = [np.abs(value.astype(float) - own) for value in others]
        return check.refusal(first_difference, float(np.nanmax(moved, initial=0.0)))

    def first_difference(
        self, feed: Mapping[str, Array], given: Mapping[str, Tensor], tolerance: Tolerance
    ) -> str | None:
        """The first value of the graph at which torch and ONNX Runtime part.

        Args:
            feed: inputs of the normalised model.
            given: values to start from in torch: the inputs, and what recurrences wrote.
            tolerance: what counts as different.
        """
        graph = self.prepared.findings.model.graph
        ours = {str(value.name) for node in graph for value in node.outputs if value.name}
        names = [name for node in self.prepared.normalized.graph.node for name in node.output if name in ours]
        inputs = [str(value.name) for value in graph.inputs]
        cut = [*inputs, *(name for name in given if name not in inputs)]
        segment = Segment(
            graph,
            cut,
            names,
            opsets=dict(self.prepared.findings.model.opset_imports),
            parameters=self.parameters,
        ).to(self.device)
        values = dict(zip(names, segment(*(given[name] for name in cut)), strict=True))
        reference = Reference(with_outputs(self.prepared.normalized, names)).run(feed, names)
        name = first_difference(names, values, reference, tolerance)
        return None if name is None else f"{name} ({self._producer(name)})"

    def _producer(self, name: str) -> str:
        nodes = (node for node in self.prepared.normalized.graph.node if name in node.output)
        return next((f"{node.op_type} {node.name}".strip() for node in nodes), "unknown")


class _AtOnce(_Model):
    """A model of which one run is all there is."""

    program: SequenceProgram | ChainProgram

    def run(self, sample: Sample) -> Run:
        run: Run = self.program(*self.feed(sample))
        return run

    def feed(self, sample: Sample) -> tuple[dict[str, Tensor], ...]:
        """What the program is called with."""
        return (self.tensors(sample.inputs | sample.initial),)

    def values(self, sample: Sample, name: str, change: Change = lambda proto: proto) -> Array:
        given = sample.inputs | sample.initial
        if name in self.reference.output_names:
            return Reference(change(self.prepared.reference)).run(given | self.constants)[name]
        single = {own: _single(value) for own, value in given.items()}
        shown = with_outputs(change(self.prepared.normalized), [name])
        return Reference(shown).run(single, [name])[name]


class Sequences(_AtOnce):
    """A model with recurrences inside: one run is the whole sequence."""

    program: SequenceProgram

    def __init__(
        self,
        prepared: Prepared,
        device: str,
        generator: torch.Generator,
        black_box: BlackBoxUse = BlackBoxUse.NEVER,
        is_double: bool = False,
    ) -> None:
        super().__init__(prepared, device, generator, black_box, is_double)
        self.observed = _recurrent_outputs(prepared.normalized)
        self.watched = _watched(prepared)
        program = SequenceProgram(prepared.findings, prepared.cells, self.parameters, self.observed)
        self.program = program.to(device)
        shown = [*self.observed, *self.watched]
        self.normalized = Reference(with_outputs(prepared.normalized, shown))

    def compare(self, sample: Sample, run: Run, check: ParityCheck) -> None:
        self.compare_outputs(self.reference, sample, run, check)
        single = {name: _single(value) for name, value in (sample.inputs | sample.initial).items()}
        if self.observed:
            check.compare_all(run.outputs, self.normalized.run(single, self.observed))
        if self.watched:
            states = {
                name: run.trajectories[site].after[state][time]
                for name, (site, state, time) in self.watched.items()
            }
            check.compare_all(states, self.normalized.run(single, list(states)), is_inner=True)
        if check.failures:
            written = [name for site in self.prepared.findings.sites for name in writes_of(site)]
            given = self.tensors(single) | {name: (run.values or {})[name] for name in written}
            raise self.refusal(sample, check, self.first_difference(single, given, check.tolerance))

    def edges(self, sample: Sample, run: Run, summary: Summary) -> tuple[CellGraph, list[EdgeMap]]:
        inputs = self.tensors(sample.inputs | sample.initial)
        local, changed = self._local(self.program, run, inputs)
        cells = _with_found_edges(self.prepared.cell_graph, local)
        summary.add(cells, local, changed)
        return cells, list(edge_maps(cells, local))

    def state_tensors(self, run: Run) -> dict[GridNode, list[Tensor]]:
        return _loop_states(self.program.sites, run)


class Streaming(_Model):
    """A model that is one step: one run is a sequence of calls with the states fed back."""

    def __init__(
        self,
        prepared: Prepared,
        device: str,
        generator: torch.Generator,
        black_box: BlackBoxUse = BlackBoxUse.NEVER,
        is_double: bool = False,
    ) -> None:
        super().__init__(prepared, device, generator, black_box, is_double)
        self.program = StreamingProgram(prepared.findings, prepared.cells, self.parameters).to(device)

    def run(self, sample: Sample) -> Run:
        run: Run = self.program(*self.feed(sample))
        return run

    def feed(self, sample: Sample) -> tuple[dict[str, Tensor], ...]:
        """What the program is called with."""
        pieces: dict[str, Array] = {}
        for carry in self.prepared.findings.carried:
            pieces |= _pieces(carry, sample.initial[carry.before])
        return self.tensors(sample.inputs), self.tensors(pieces)

    def compare(self, sample: Sample, run: Run, check: ParityCheck) -> None:
        for inputs, state in self._compared(self.reference, sample, run, check):
            if check.failures:
                single = {name: _single(value) for name, value in (inputs | state).items()}
                given = self.tensors({name: single[name] for name in inputs})
                for carry in self.prepared.findings.carried:
                    given |= self.tensors(_pieces(carry, single[carry.before]))
                raise self.refusal(sample, check, self.first_difference(single, given, check.tolerance))

    def compare_outputs(self, reference: Reference, sample: Sample, run: Run, check: ParityCheck) -> None:
        for _ in self._compared(reference, sample, run, check):
            pass

    def values(self, sample: Sample, name: str, change: Change = lambda proto: proto) -> Array:
        reference = Reference(change(self.prepared.reference))
        return np.stack([outputs[name] for _, _, outputs in self._steps(reference, sample)])

    def _compared(
        self, reference: Reference, sample: Sample, run: Run, check: ParityCheck
    ) -> Iterator[tuple[dict[str, Array], dict[str, Array]]]:
        """Compare step by step; yields the inputs and states of each step."""
        arrays = on_host(list(run.outputs.values()))
        ours = {name: torch.from_numpy(own) for name, own in zip(run.outputs, arrays, strict=True)}
        for time, (inputs, state, outputs) in enumerate(self._steps(reference, sample)):
            check.compare_all({name: value[time] for name, value in ours.items()}, outputs)
            yield inputs, state

    def _steps(
        self, reference: Reference, sample: Sample
    ) -> Iterator[tuple[dict[str, Array], dict[str, Array], dict[str, Array]]]:
        """Inputs, states and outputs of each step in ONNX Runtime, states fed back."""
        state = dict(sample.initial)
        for time in range(self.program.site.site.num_steps):
            inputs = {name: value[time] for name, value in sample.inputs.items()}
            outputs = reference.run(inputs | state | self.constants)
            yield inputs, state, outputs
            state = {carry.before: outputs[carry.after] for carry in self.prepared.findings.carried}

    def edges(self, sample: Sample, run: Run, summary: Summary) -> tuple[CellGraph, list[EdgeMap]]:
        local, changed = self._local(self.program, run, {})
        cells = self.prepared.cell_graph
        summary.add(cells, local, changed)
        return cells, list(edge_maps(cells, local))

    def state_tensors(self, run: Run) -> dict[GridNode, list[Tensor]]:
        return _loop_states(self.program.sites, run)


class FeedForward(_AtOnce):
    """A model without recurrence: the chain of its blocks."""

    program: ChainProgram

    def __init__(
        self,
        prepared: Prepared,
        device: str,
        generator: torch.Generator,
        black_box: BlackBoxUse = BlackBoxUse.NEVER,
        is_double: bool = False,
    ) -> None:
        super().__init__(prepared, device, generator, black_box, is_double)
        assert prepared.chain is not None
        program = ChainProgram(prepared.findings.model, prepared.chain, self.parameters)
        self.program = program.to(device)
        self.boundaries = prepared.chain.boundaries
        known = {name for node in prepared.normalized.graph.node for name in node.output}
        # Blocks may end inside a fused operator of a single step, where ONNX Runtime shows no value.
        self.compared = [name for name in self.boundaries if name in known]
        self.normalized = Reference(with_outputs(prepared.normalized, self.compared))

    def compare(self, sample: Sample, run: Run, check: ParityCheck) -> None:
        single = {name: _single(value) for name, value in (sample.inputs | sample.initial).items()}
        self.compare_outputs(self.reference, sample, run, check)
        # A deep model may forget its first layers before its outputs: every layer is compared.
        layers = dict(zip(self.boundaries, run.boundaries, strict=True))
        if self.compared:
            check.compare_all(layers, self.normalized.run(single, self.compared), is_inner=True)
        if check.failures:
            first = self.first_difference(single, self.tensors(single), check.tolerance)
            raise self.refusal(sample, check, first)

    def edges(self, sample: Sample, run: Run, summary: Summary) -> tuple[CellGraph, list[EdgeMap]]:
        cells = self.prepared.cell_graph
        shapes = [tuple(b.shape) for b in run.boundaries]
        inputs = self.tensors(sample.inputs | sample.initial)
        if too_many_in_chain(self.program, run):
            given = [tuple(own.shape) for own in inputs.values() if own.is_floating_point()]
            for layer, into, out in zip(
                cells.layers, (given, *([own] for own in shapes)), shapes, strict=False
            ):
                summary.causal.leave_out_block(layer.id, into, out)
            pushes = pushed_blocks(self.program, run, cells)
            within = self.parameters.differences.changed
            summary.add_pushes(cells, pushes, [own.within(within) for own in pushes])
            return cells, [edge for own in pushes for edge in pushed_edges(own)]
        blocks = chain_blocks(self.program, run, cells)
        changed = self.changed(lambda: chain_blocks(self.program, run, cells))
        for block, shape in input_blocks(self.program, inputs, cells):
            summary.causal.add([block], [shape, shapes[0]], self.generator)
        summary.add_chain(blocks, shapes, self.generator, changed)
        return cells, chain_edges(blocks)

    def state_tensors(self, run: Run) -> dict[GridNode, list[Tensor]]:
        layers = self.prepared.cell_graph.layers
        return {GridNode(layer.id, 0): [tensor] for layer, tensor in zip(layers, run.boundaries, strict=True)}


def quantization_error(prepared: Prepared, sample: Sample) -> float:
    """How far the outputs of a quantised model are from those with its weights as floats.

    Returns:
        The largest difference of any output, relative to that output's largest value.
    """
    feed = sample.inputs | sample.initial | prepared.plan.constants
    if is_streaming(prepared):
        feed |= {name: value[0] for name, value in sample.inputs.items()}
    ours, theirs = (Reference(proto).run(feed) for proto in (prepared.reference, prepared.runnable))
    errors = []
    for name, value in ours.items():
        if value.dtype.kind == "f":
            scale = max(float(np.abs(value).max(initial=0.0)), 1e-30)
            errors.append(float(np.abs(value - theirs[name]).max(initial=0.0)) / scale)
    return max(errors, default=0.0)


def _loop_states(sites: nn.ModuleList | Sequence[SiteModule], run: Run) -> dict[GridNode, list[Tensor]]:
    found = {}
    for site, trajectory in zip(sites, run.trajectories, strict=True):
        assert isinstance(site, SiteModule)
        for module in site.cells:
            assert isinstance(module, CellModule)
            layer = module.cell.layer
            for time in range(site.site.num_steps):
                states = [trajectory.cells[state.name][time] for state in layer.states]
                found[GridNode(layer.id, time)] = states
    return found


def _with_found_edges(cells: CellGraph, local: LocalJacobians) -> CellGraph:
    """The cell graph with the depth edges that the run has shown."""
    found = [*(depth.edge for depth in local.depth), *(maps.edge for maps in local.maps)]
    found += [pushes.edge for pushes in local.pushes if pushes.edge is not None]
    edges = tuple(dict.fromkeys(found))
    return CellGraph(cells.layers, edges, cells.num_steps)


def _pieces(carry: CarriedState, value: Array) -> dict[str, Array]:
    """The state variables that a carried input consists of."""
    return {piece.before: piece.of(value) for piece in carry.pieces}


def _single(value: Array) -> Array:
    is_half = value.dtype.itemsize == 2 and value.dtype.kind not in "iub"
    return value.astype(np.float32) if is_half else value


def _recurrent_outputs(proto: onnx.ModelProto) -> list[str]:
    """Names of what the fused operators of the main graph write: sequences and final states."""
    nodes = (node for node in proto.graph.node if node.op_type in RECURRENT_OPS)
    return [name for node in nodes for name in node.output if name]


def _watched(prepared: Prepared) -> dict[str, tuple[int, str, int]]:
    """Values of the graph as it was found that are states of unrolled steps: (site, state, time) by name."""
    known = {name for node in prepared.normalized.graph.node for name in node.output}
    return {
        name: (index, state.name, time)
        for index, site in enumerate(prepared.findings.sites)
        for state, names in zip(site.states, site.watched, strict=False)
        for time, name in enumerate(names)
        if name is not None and name in known
    }
