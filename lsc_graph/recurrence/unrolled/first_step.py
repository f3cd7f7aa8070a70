"""A first step that an exporter has simplified away because it starts from zeros, put back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.recurrence.trial import Trial
from lsc_graph.recurrence.unrolled.reads import Reads, Slices
from lsc_graph.recurrence.unrolled.steps import Steps
from lsc_graph.recurrence.writer import GraphWriter

_TOLERANCE = 1e-5


def put_back_first_step(
    model: ir.Model, steps: Steps, reads: Reads, nodes: Sequence[ir.Node], writer: GraphWriter, trial: Trial
) -> bool:
    """Let the recurrence start one step earlier from zeros, if that gives the states that it starts with.

    Whether it does is settled by running both in ONNX Runtime.
    """
    earlier = _earlier(reads)
    if earlier is None or not _is_computed(steps) or any(static_shape(key) is None for key in steps.states):
        return False
    starts = [steps.states[key][0] for key in steps.states]
    zeros = {key: _zeros(key, writer) for key in steps.states}
    if not _agree(model, steps, reads, nodes, earlier, trial):
        return False
    steps.num_steps += 1
    steps.position += 1
    for lane in steps.nodes.values():
        lane.insert(0, None)
    for images in (*steps.values.values(), *steps.outside.values()):
        images.insert(0, None)
    for key, start in zip(steps.states, starts, strict=True):
        if steps.after[key] in steps.values and start is not None and not start.is_initializer():
            steps.values[steps.after[key]][0] = start
        steps.states[key].insert(0, zeros[key])
    reads.slices |= earlier
    return True


def _earlier(reads: Reads) -> dict[ir.Value, Slices] | None:
    """The slices with one more in front, if all of them go on like that; none where no sequence is read."""
    found = {}
    for key, slices in reads.slices.items():
        stride, size = slices.stride, (slices.source.shape or ())[slices.axis]
        first = slices.indices[0] - (stride or 0)
        if stride not in (1, -1) or not isinstance(size, int) or not 0 <= first < size:
            return None
        found[key] = Slices(slices.source, slices.axis, slices.keeps_axis, (first, *slices.indices))
    return None if reads.stacks else found


def _is_computed(steps: Steps) -> bool:
    """Whether first states are results of nodes, constants aside; given ones are real starts."""
    starts = [lane[0] for lane in steps.states.values()]
    is_given = any(start is None or start.is_graph_input() for start in starts)
    return not is_given and any(start is not None and not start.is_initializer() for start in starts)


def _zeros(key: ir.Value, writer: GraphWriter) -> ir.Value:
    dtype = key.dtype or ir.DataType.FLOAT
    return writer.constant(np.zeros(static_shape(key) or (), dtype=dtype.numpy()), f"{key.name}.zeros")


def _agree(
    model: ir.Model,
    steps: Steps,
    reads: Reads,
    nodes: Sequence[ir.Node],
    earlier: dict[ir.Value, Slices],
    trial: Trial,
) -> bool:
    """Whether the step, applied to zeros, gives the states that the recurrence starts with."""
    writer = GraphWriter("lsc_graph.first_step", None)
    zeros = {key: _zeros(key, writer) for key in steps.states}
    known = stepped(steps, reads, nodes, zeros, earlier, writer)
    starts = [lane[0] for lane in steps.states.values()]
    return are_equal(model, writer.nodes, starts, [known[steps.after[key]] for key in steps.states], trial)


def stepped(
    steps: Steps,
    reads: Reads,
    nodes: Sequence[ir.Node],
    initial: Mapping[ir.Value, ir.Value],
    slices: Mapping[ir.Value, Slices],
    writer: GraphWriter,
) -> dict[ir.Value, ir.Value]:
    """The pattern step's values, computed from initial states and the first slices by new nodes."""
    known = dict(reads.captures) | dict(initial)
    for key, read in slices.items():
        index = [read.indices[0]] if read.keeps_axis else read.indices[0]
        where = writer.constant(np.array(index, dtype=np.int64), "index")
        known[key] = writer.op("Gather", [read.source, where], "x", key.shape, key.dtype, axis=read.axis)
    writer.repeat(nodes, known)
    return known


def are_equal(
    model: ir.Model,
    nodes: Sequence[ir.Node],
    first: Sequence[ir.Value | None],
    second: Sequence[ir.Value | None],
    trial: Trial,
) -> bool:
    """Whether values hold the same on a sample, with some nodes added to the graph for the time being."""
    results = _run(model, nodes, [*first, *second], trial)
    return all(_is_close(*pair) for pair in zip(results[: len(first)], results[len(first) :], strict=True))


def _run(
    model: ir.Model, nodes: Sequence[ir.Node], wanted: Sequence[ir.Value | None], trial: Trial
) -> list[np.ndarray]:
    """Values of the graph with some nodes added for the time being."""
    graph = model.graph
    graph.extend(nodes)
    names = [str(value.name) for value in wanted if value is not None]
    try:
        piece = ir.convenience.extract(graph, [str(value.name) for value in graph.inputs], names)
    finally:
        graph.remove(list(nodes), safe=False)
        for node in nodes:
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)
    piece.opset_imports.update(model.opset_imports)
    results = trial(ir.to_proto(ir.Model(piece, ir_version=model.ir_version)))
    return [results[name] for name in names]


def _is_close(first: np.ndarray, second: np.ndarray) -> bool:
    return first.shape == second.shape and np.allclose(first, second, rtol=_TOLERANCE, atol=_TOLERANCE)
