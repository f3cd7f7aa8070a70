"""An unrolled recurrence written as one Scan node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.unrolled.emissions import (
    Emission,
    find_emissions,
    outside_uses,
    replace_emission,
    replace_joins,
    replaced_nodes,
)
from lsc_graph.recurrence.unrolled.reads import Reads, Slices
from lsc_graph.recurrence.unrolled.steps import Steps
from lsc_graph.recurrence.writer import Dim, GraphWriter, replace_output


@dataclass
class Rolled:
    """The Scan that took the place of an unrolled recurrence.

    Attributes:
        scan: the node.
        state_names: one per state.
        is_reverse: whether step 0 is the last time.
        watched: per state, the names that it had at each step of the unrolled graph, in true time order.
    """

    scan: ir.Node
    state_names: tuple[str, ...]
    is_reverse: bool
    watched: tuple[tuple[str | None, ...], ...]


class Roller:
    """Writes the Scan; what it replaces is left without readers.

    Args:
        steps, reads: the recurrence.
        writer: for new nodes, which go where `insert` is called.
        nodes_in_order: the pattern step's nodes, lifted ones and read-outs included.
        is_reverse: whether step 0 is the last time.
    """

    def __init__(
        self,
        steps: Steps,
        reads: Reads,
        writer: GraphWriter,
        nodes_in_order: Sequence[ir.Node],
        *,
        is_reverse: bool,
    ) -> None:
        self.steps, self.reads, self.writer = steps, reads, writer
        self.is_reverse = is_reverse
        self.body = writer.child("step")
        self.body.nodes = []
        self.inner: dict[ir.Value, ir.Value] = dict(reads.captures)
        self.state_inputs = [self._state_input(key) for key in steps.states]
        self.slice_inputs: list[ir.Value] = []
        self.sequences: list[ir.Value] = []
        for key, slices in reads.slices.items():
            self._add_slices(key, slices)
        for key, values in reads.stacks.items():
            self._add_stack(key, values)
        if not self.sequences:
            self._add_counter()
        steps.derive(self.inner, self.body)
        self.body.repeat(nodes_in_order, self.inner)

    def write(self) -> Rolled:
        """Append the Scan and what it needs to the writer, and let everybody read from it."""
        inside = replaced_nodes(self.steps)
        emissions = find_emissions(self.steps, inside, is_reverse=self.is_reverse)
        self.joined_axes = [emission.squeezed_axis for emission in emissions]
        outputs = [self._copy_out(self.inner[self.steps.after[key]], key) for key in self.steps.states]
        outputs += [self._emitted(emission) for emission in emissions]
        finals = [self._final(key) for key in self.steps.states]
        sequences = [self._sequence(emission) for emission in emissions]
        scan = self._scan(outputs, [*finals, *sequences], [emission.scan_axis for emission in emissions])
        watched = tuple(self._names_of(key) for key in self.steps.states)
        names = tuple(str(key.name) for key in self.steps.states)
        for emission, sequence in zip(emissions, sequences, strict=True):
            replace_joins(emission, sequence, self.writer)
        for key, final in zip(self.steps.states, finals, strict=True):
            last = self.steps.images(self.steps.after[key])[-1]
            is_emitted = any(emission.key is self.steps.after[key] for emission in emissions)
            if last is not None and not is_emitted and outside_uses(last, inside):
                replace_output(last, final)
        for emission, sequence in zip(emissions, sequences, strict=True):
            replace_emission(emission, sequence, self.writer, inside)
        return Rolled(scan, names, self.is_reverse, watched)

    def _names_of(self, key: ir.Value) -> tuple[str | None, ...]:
        """What a state is called at each step, in true time order."""
        lane = self.steps.images(self.steps.after[key])
        return tuple(str(v.name) if v is not None else None for v in lane[:: -1 if self.is_reverse else 1])

    def _state_input(self, key: ir.Value) -> ir.Value:
        value = self.body.value(f"{key.name}.before", key.shape, key.dtype)
        self.inner[key] = value
        return value

    def _add_slices(self, key: ir.Value, slices: Slices) -> None:
        indices = list(slices.indices)[::-1] if self.is_reverse else list(slices.indices)
        source = slices.source
        shape = list(source.shape or ())
        size = shape[slices.axis]
        if size != len(indices) or indices != list(range(len(indices))):
            shape[slices.axis] = len(indices)
            source = self.writer.op(
                "Gather",
                [source, self.writer.integers(indices)],
                f"{key.name}.steps",
                shape,
                source.dtype,
                axis=slices.axis,
            )
        value = self.body.value(f"{key.name}.slice", _without(shape, slices.axis), source.dtype)
        self._add_sequence(value, source, slices.axis)
        self.inner[key] = value
        if slices.keeps_axis:
            axes = self.writer.integers([slices.axis])
            self.inner[key] = self.body.op("Unsqueeze", [value, axes], str(key.name), key.shape, key.dtype)

    def _add_stack(self, key: ir.Value, values: Sequence[ir.Value]) -> None:
        ordered = list(values)[::-1] if self.is_reverse else list(values)
        shape = list(key.shape if key.shape is not None else _array_of(key).shape)
        dtype = key.dtype or (key.const_value.dtype if key.const_value is not None else None)
        zero = self.writer.integers([0])
        rows = [self.writer.op("Unsqueeze", [v, zero], "row", [1, *shape], dtype) for v in ordered]
        stacked = self.writer.op("Concat", rows, f"{key.name}.steps", [len(rows), *shape], dtype, axis=0)
        value = self.body.value(f"{key.name}.slice", shape, dtype)
        self._add_sequence(value, stacked, 0)
        self.inner[key] = value

    def _add_sequence(self, value: ir.Value, source: ir.Value, axis: int) -> None:
        self.slice_inputs.append(value)
        self.sequences.append(source)
        self._axes = [*getattr(self, "_axes", []), axis]

    def _add_counter(self) -> None:
        """A Scan reads at least one sequence: the numbers of the steps, which nothing uses."""
        counter = self.writer.integers(range(self.steps.num_steps))
        self._add_sequence(self.body.value("step_number", [], ir.DataType.INT64), counter, 0)

    def _copy_out(self, value: ir.Value, key: ir.Value) -> ir.Value:
        return self.body.op("Identity", [value], f"{key.name}.after", value.shape, value.dtype)

    def _emitted(self, emission: Emission) -> ir.Value:
        value = self.inner[emission.key]
        if emission.squeezed_axis is None:
            return self._copy_out(value, emission.key)
        axes = self.writer.integers([emission.squeezed_axis])
        shape = _without(list(value.shape or ()), emission.squeezed_axis)
        return self.body.op("Squeeze", [value, axes], f"{emission.key.name}.row", shape, value.dtype)

    def _final(self, key: ir.Value) -> ir.Value:
        return self.writer.value(f"{key.name}.final", key.shape, key.dtype)

    def _sequence(self, emission: Emission) -> ir.Value:
        shape: list[Dim] = list(emission.key.shape or ())
        if emission.squeezed_axis is not None:
            shape = _without(shape, emission.squeezed_axis)
        shape.insert(emission.scan_axis, self.steps.num_steps)
        return self.writer.value(f"{emission.key.name}.sequence", shape, emission.key.dtype)

    def _scan(self, outputs: list[ir.Value], results: list[ir.Value], axes: list[int]) -> ir.Node:
        graph = ir.Graph(
            [*self.state_inputs, *self.slice_inputs], outputs, nodes=self.body.nodes, name=self.body.prefix
        )
        starts = [self._start(key) for key in self.steps.states]
        reverse = int(self.is_reverse)
        scan = self.writer.append(
            "Scan",
            [*starts, *self.sequences],
            results,
            body=graph,
            num_scan_inputs=len(self.sequences),
            scan_input_axes=self._axes,
            scan_input_directions=[reverse] * len(self.sequences),
            **({"scan_output_axes": axes, "scan_output_directions": [reverse] * len(axes)} if axes else {}),
        )
        scan.name = self.writer.prefix
        return scan

    def _start(self, key: ir.Value) -> ir.Value:
        first = self.steps.states[key][0]
        assert first is not None
        wanted, given = static_shape(key), static_shape(first)
        if wanted is None or given == wanted:
            return first
        shape = self.writer.integers(wanted)
        return self.writer.op("Expand", [first, shape], f"{key.name}.start", wanted, key.dtype)


def _without(shape: Sequence[Dim], axis: int) -> list[Dim]:
    return [dim for index, dim in enumerate(shape) if index != axis]


def _array_of(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return np.asarray(value.const_value.numpy())
