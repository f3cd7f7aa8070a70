"""Loop nodes rewritten as Scan: carried values that never change leave, counters become what they index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from lsc_graph.canonical.rewiring import forget_insides, remove_unused
from lsc_graph.canonical.shapes import static_shape
from lsc_graph.errors import AnalysisError, LimitExceededError
from lsc_graph.recurrence.loops.buffers import Accumulation, find_accumulations, replace_accumulation
from lsc_graph.recurrence.loops.decided import Decided, find_decided, max_trips, run
from lsc_graph.recurrence.loops.histories import carry_the_row, find_histories
from lsc_graph.recurrence.loops.indexed import IndexedRead, find_indexed_reads, indexed_read
from lsc_graph.recurrence.loops.lists import read_lists_as_tensors
from lsc_graph.recurrence.loops.parts import (
    Carried,
    LoopParts,
    forward_unchanged,
    loops_of,
    origin,
    parts_of,
)
from lsc_graph.recurrence.trial import Trial
from lsc_graph.recurrence.writer import GraphWriter, Names, replace_output
from lsc_graph.results import Refusal
from lsc_graph.running.reference import Array, Reference


@dataclass(frozen=True)
class TripCount:
    """How a Loop that the data may end is counted: `proto` puts out one number for each of its steps."""

    loop: str
    num_steps: int
    proto: onnx.ModelProto

    def on(self, feed: Mapping[str, Array]) -> int:
        """How often the Loop runs on one sample; raises AnalysisError if the model does not run."""
        (numbers,) = Reference(self.proto).run(feed).values()
        return len(numbers)


@dataclass(frozen=True)
class LoweredLoop:
    """A Loop and the Scan that took its place.

    `counted` is given where the data decide the number of steps, which is then that of most samples.
    """

    name: str
    scan: ir.Node
    num_steps: int
    counted: TripCount | None
    state_names: tuple[str, ...]


class CannotRollError(Exception):
    """A Loop that cannot be written as a Scan; the message says why."""


def lower_loops(
    model: ir.Model,
    trial: Trial | None,
    simplify: Callable[[ir.Model], None],
    more_trials: Sequence[Trial] = (),
) -> tuple[tuple[LoweredLoop, ...], tuple[Refusal, ...]]:
    """Rewrite the Loops of the main graph as Scans, in place.

    Args:
        model: normalised model.
        trial: runs the model once, to count the steps of a Loop whose end depends on data.
        simplify: infers shapes and folds constants.
        more_trials: the same on other samples: such a Loop is taken to run as often as on most of them.
    """
    trials = () if trial is None else (trial, *more_trials)
    lowered: list[LoweredLoop] = []
    refused: dict[str, Refusal] = {}
    while (node := _next(model, refused)) is not None:
        _share_shapes(node)
        simplify(model)
        if _shape_reads(model, node):
            simplify(model)
        name = _name(node)
        try:
            lowered.append(_lower(model, node, name, Names(model.graph), trials))
        except (CannotRollError, LimitExceededError) as error:
            refused[name] = Refusal(name, "loop", str(error))
            continue
        read_lists_as_tensors(model)
        passes.TopologicalSortPass()(model)
        remove_unused(model)
        simplify(model)
        remove_unused(model)
    return tuple(lowered), tuple(refused.values())


def _name(node: ir.Node) -> str:
    return str(node.name or next(value.name for value in node.outputs if value.name))


def _next(model: ir.Model, refused: Mapping[str, Refusal]) -> ir.Node | None:
    return next((node for node in loops_of(model.graph) if _name(node) not in refused), None)


def length_of(model: ir.Model, node: ir.Node) -> int | None:
    """How often a Loop runs, if data do not decide that; the Loop is of no use afterwards."""
    parts = parts_of(node)
    parts.body.outputs.clear()
    forward_unchanged(parts)
    decided = find_decided(parts)
    if not decided.decides_end or (parts.max_trips is not None and max_trips(parts) is None):
        return None
    return run(parts, decided, model.opset_imports.get("", 0), None)


def _share_shapes(node: ir.Node) -> None:
    """Carried values are taken to keep the shape that they start with; `_check_shapes` looks again."""
    for carried in parts_of(node).carried:
        if static_shape(carried.before) is None and carried.start.shape is not None:
            carried.before.shape = carried.start.shape
        carried.before.type = carried.before.type or carried.start.type


def _shape_reads(model: ir.Model, node: ir.Node) -> bool:
    """Give slices that are read at the step's index their shapes, which inference cannot know."""
    parts, is_learned = parts_of(node), False
    outputs = list(parts.body.outputs)
    parts.body.outputs.clear()
    forward_unchanged(parts)
    decided = find_decided(parts)
    try:
        run(parts, decided, model.opset_imports.get("", 0), 2)
        reads = [*find_indexed_reads(parts, decided), *_reads_of_carried(parts, decided)]
    except AnalysisError:
        reads = []  # a loop of a single step may not be able to take two
    for read in reads:
        shape = list(read.source.shape or ())
        shape[read.axis : read.axis + 1] = [1] if read.keeps_axis else []
        if static_shape(read.value) is None:
            read.value.shape, is_learned = ir.Shape(shape), True
    parts.body.outputs.extend(outputs)
    return is_learned


def _reads_of_carried(parts: LoopParts, decided: Decided) -> Iterator[IndexedRead]:
    for carried in parts.carried:
        for use in carried.before.uses():
            if use.idx == 0 and (read := indexed_read(use.node, carried.before, decided)) is not None:
                yield read


def _lower(model: ir.Model, node: ir.Node, name: str, names: Names, trials: Sequence[Trial]) -> LoweredLoop:
    parts = parts_of(node)
    outputs = list(parts.body.outputs)
    parts.body.outputs.clear()
    try:
        return _rewritten(model, parts, outputs, name, names, trials)
    except CannotRollError:
        parts.body.outputs.clear()
        parts.body.outputs.extend(outputs)
        raise


def _rewritten(
    model: ir.Model,
    parts: LoopParts,
    outputs: Sequence[ir.Value],
    name: str,
    names: Names,
    trials: Sequence[Trial],
) -> LoweredLoop:
    node = parts.node
    forward_unchanged(parts)
    decided = find_decided(parts)
    counted = None
    if not decided.decides_end or (parts.max_trips is not None and max_trips(parts) is None):
        parts.body.outputs.extend(outputs)
        counted = _count_trips(model, node, name, trials)
        parts.body.outputs.clear()
    known = None if counted is None else counted.num_steps
    num_steps = run(parts, decided, model.opset_imports.get("", 0), known)
    if num_steps < 1:
        raise CannotRollError("it runs for no step at all")
    parts.carried = [c for c in parts.carried if c not in decided.counters or _is_used(c.final)]
    writer = GraphWriter(names.unique_prefix(name), None)
    for history in find_histories(parts, decided):
        carry_the_row(parts, history, writer)
    accumulations = find_accumulations(parts, decided)
    for accumulation in accumulations:
        parts.carried.remove(accumulation.carried)
    parts.carried = [
        carried for carried in parts.carried if _is_used(carried.before) or _is_used(carried.final)
    ]
    _check_shapes(parts.carried)
    state_names = tuple(str(carried.before.name) for carried in parts.carried)
    scan = _Writer(parts, decided, accumulations, num_steps, writer).write()
    graph = node.graph
    assert graph is not None
    graph.insert_before(node, writer.nodes)
    forget_insides(node)
    graph.remove(node, safe=True)
    return LoweredLoop(name, scan, num_steps, counted, state_names)


def _is_used(value: ir.Value) -> bool:
    return value.is_graph_output() or any(True for _ in value.uses())


def _check_shapes(carried: Sequence[Carried]) -> None:
    for each in carried:
        if not isinstance(each.before.type, ir.TensorType):
            raise CannotRollError(
                f"it carries {each.before.name}, which is no tensor but a list: only tensors are followed "
                "from step to step; let the loop carry each of them by itself"
            )
        start, after = static_shape(each.start), static_shape(each.after)
        if start is None:
            raise CannotRollError(f"the shape of {each.start.name}, which it starts from, is not known")
        if after is not None and after != start:
            raise CannotRollError(
                f"{each.before.name} changes its shape from {start} to {after}, and a state keeps its own: "
                "let the loop carry what the next step reads alone, and put out what else it gathers"
            )


def _count_trips(model: ir.Model, node: ir.Node, name: str, trials: Sequence[Trial]) -> TripCount:
    """How often a Loop runs on most samples, counted in ONNX Runtime."""
    if not trials:
        raise CannotRollError("how often it runs depends on the data")
    proto = ir.to_proto(model)
    shown = f"{node.outputs[0].name}.numbers"
    target = next(n for n in proto.graph.node if list(n.output) == [v.name or "" for v in node.outputs])
    body = next(attribute.g for attribute in target.attribute if attribute.name == "body")
    body.node.append(onnx.helper.make_node("Identity", [body.input[0].name], [shown]))
    body.output.append(onnx.helper.make_tensor_value_info(shown, onnx.TensorProto.INT64, []))
    target.output.append(shown)
    del proto.graph.output[:]
    proto.graph.output.append(onnx.helper.make_tensor_value_info(shown, onnx.TensorProto.INT64, [None]))
    try:
        counts = Counter(len(trial(proto)[shown]) for trial in trials)
        return TripCount(name, counts.most_common(1)[0][0], proto)
    except AnalysisError as error:
        raise CannotRollError(
            f"how often it runs depends on the data, and it did not run: {error}"
        ) from error


class _Writer:
    """Writes one Loop, freed of what never changes, as a Scan."""

    def __init__(
        self,
        parts: LoopParts,
        decided: Decided,
        accumulations: Sequence[Accumulation],
        num_steps: int,
        writer: GraphWriter,
    ) -> None:
        self.parts, self.accumulations, self.num_steps = parts, accumulations, num_steps
        self.writer = writer
        self.slices: list[ir.Value] = []
        self.sequences: list[ir.Value] = []
        self.axes: list[int] = []
        self.directions: list[int] = []
        for read in find_indexed_reads(parts, decided):
            self._add_read(read)
        self._drop_unread()
        for value, arrays in decided.arrays.items():
            self._add_decided(value, arrays)
        if not self.sequences:
            numbers = writer.integers(range(num_steps))
            step = ir.val(f"{writer.prefix}.step", dtype=ir.DataType.INT64, shape=ir.Shape([]))
            self._add(step, numbers, 0)

    def _add(self, value: ir.Value, sequence: ir.Value, axis: int, *, is_reverse: bool = False) -> None:
        self.slices.append(value)
        self.sequences.append(sequence)
        self.axes.append(axis)
        self.directions.append(int(is_reverse))

    def _add_read(self, read: IndexedRead) -> None:
        """Let a sequence that is read at the step's index be scanned instead."""
        source, axis = read.source, read.axis
        indices = list(read.indices)
        shape = list(source.shape or ())
        is_reverse = len(indices) > 1 and indices[0] > indices[-1]
        ordered = indices[::-1] if is_reverse else indices
        if shape[axis] != len(ordered) or ordered != list(range(len(ordered))):
            shape[axis] = len(ordered)
            where = self.writer.integers(ordered)
            source = self.writer.op("Gather", [source, where], "steps", shape, source.dtype, axis=axis)
        del shape[axis]
        value = self.writer.value(f"{read.value.name}.slice", shape, source.dtype)
        self._add(value, source, axis, is_reverse=is_reverse)
        if read.keeps_axis:
            value = self._in_body("Unsqueeze", [value, self.writer.integers([axis])], value, read.value)
        ir.convenience.replace_all_uses_with(read.value, value)
        for carried in self.parts.carried:
            carried.after = value if carried.after is read.value else carried.after
        for collected in self.parts.collected:
            collected.element = value if collected.element is read.value else collected.element

    def _drop_unread(self) -> None:
        """Remove what only the reads, the counters or the end of the loop needed."""
        parts = self.parts
        kept = {carried.after for carried in parts.carried}
        kept |= {collected.element for collected in parts.collected}
        kept |= {accumulation.element for accumulation in self.accumulations}
        for node in reversed(list(parts.body)):
            if not any(value in kept or any(True for _ in value.uses()) for value in node.outputs):
                forget_insides(node)
                parts.body.remove(node, safe=True)

    def _in_body(self, op_type: str, inputs: list[ir.Value], first: ir.Value, like: ir.Value) -> ir.Value:
        node = ir.node(op_type, inputs, name=f"{first.name}.{op_type.lower()}")
        node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = node.name, like.shape, first.type
        position = next(iter(self.parts.body), None)
        if position is None:
            self.parts.body.append(node)
        else:
            self.parts.body.insert_before(position, node)
        return node.outputs[0]

    def _add_decided(self, value: ir.Value, arrays: Sequence[np.ndarray]) -> None:
        """Replace a decided value by a constant, or by a sequence of its values."""
        outputs = {id(collected.element) for collected in self.parts.collected}
        if not any(True for _ in value.uses()) and id(value) not in outputs:
            return
        if any(array.shape != arrays[0].shape for array in arrays):
            raise CannotRollError(f"the shape of {value.name} changes from step to step")
        if all(np.array_equal(array, arrays[0]) for array in arrays) and id(value) not in outputs:
            ir.convenience.replace_all_uses_with(value, self.writer.constant(arrays[0], str(value.name)))
            return
        sequence = self.writer.constant(np.stack(arrays), f"{value.name}.steps")
        dtype = ir.DataType.from_numpy(arrays[0].dtype)
        slice_ = self.writer.value(f"{value.name}.slice", arrays[0].shape, dtype)
        self._add(slice_, sequence, 0)
        ir.convenience.replace_all_uses_with(value, slice_)
        for collected in self.parts.collected:
            collected.element = slice_ if collected.element is value else collected.element

    def write(self) -> ir.Node:
        """The Scan, which is appended to the writer."""
        parts, body = self.parts, self.parts.body
        elements = [collected.element for collected in parts.collected]
        elements += [accumulation.element for accumulation in self.accumulations]
        written = [carried.after for carried in parts.carried] + elements
        nodes = list(body)
        body.outputs.clear()
        body.remove(nodes)
        outputs = [self._output(value, nodes) for value in written]
        graph = ir.Graph(
            [*(carried.before for carried in self._freed(parts.carried)), *self.slices],
            outputs,
            nodes=nodes,
            name=f"{self.writer.prefix}.step",
        )
        finals = [self._like(carried.final, carried.start.shape) for carried in parts.carried]
        stacked = [self._stacked(value) for value in elements]
        scan = self.writer.append(
            "Scan",
            [*(carried.start for carried in parts.carried), *self.sequences],
            [*finals, *stacked],
            body=graph,
            num_scan_inputs=len(self.sequences),
            scan_input_axes=self.axes,
            scan_input_directions=self.directions,
        )
        for carried, final in zip(parts.carried, finals, strict=True):
            _replace(carried.final, final)
        for collected, sequence in zip(parts.collected, stacked, strict=False):
            _replace(collected.sequence, sequence)
        for accumulation, sequence in zip(self.accumulations, stacked[len(parts.collected) :], strict=True):
            replace_accumulation(accumulation, sequence, self.writer)
        return scan

    def _freed(self, carried: Sequence[Carried]) -> Sequence[Carried]:
        """Body inputs belong to one graph: those of the Scan are new values."""
        for each in carried:
            value = self.writer.value(f"{each.before.name}.before", each.start.shape, each.before.dtype)
            ir.convenience.replace_all_uses_with(each.before, value)
            each.before = value
        return carried

    def _output(self, value: ir.Value, nodes: list[ir.Node]) -> ir.Value:
        """A body output of its own: two of them may not be the same value, nor an input."""
        source = next((c.before for c in self.parts.carried if c.before is value), value)
        node = ir.node("Identity", [source])
        result = node.outputs[0]
        result.name = f"{self.writer.value(f'{value.name}.out').name}"
        node.name = result.name
        result.shape, result.type = value.shape, value.type
        nodes.append(node)
        return result

    def _like(self, value: ir.Value, shape: ir.Shape | None) -> ir.Value:
        return self.writer.value(f"{value.name or 'unused'}.scan", shape or value.shape, value.dtype)

    def _stacked(self, element: ir.Value) -> ir.Value:
        shape = static_shape(element)
        dims = [self.num_steps, *shape] if shape is not None else None
        return self.writer.value(f"{origin(element).name}.sequence", dims, element.dtype)


def _replace(old: ir.Value, new: ir.Value) -> None:
    if old.name:
        replace_output(old, new)
